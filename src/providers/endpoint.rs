//! Where a provider is asked, and what for.

use super::Provider;
use std::path::PathBuf;

/// Where a provider is asked, and what for.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// https, or http on loopback; without a slash at its end.
    pub(crate) base_url: String,
    /// Whether it is http, which only an address on this machine may be: no proxy may see it.
    pub(crate) plain: bool,
    /// Who is asked.
    pub(crate) provider: &'static Provider,
    /// The models that probes ask for: the first that the provider knows. Empty when none is known.
    pub(crate) models: Vec<String>,
    /// More certificates to trust (`SSL_CERT_FILE`).
    pub(crate) certificates: Option<PathBuf>,
    /// Sent with each probe (`ANTHROPIC_WORKSPACE_ID`).
    pub(crate) workspace: Option<String>,
}
