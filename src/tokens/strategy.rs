//! How a token is chosen among those that are good.

/// How the token of a request is chosen among those that are good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// The same as long as it is good, which keeps the provider's prompt cache.
    #[default]
    Sticky,
    /// One after the other.
    RoundRobin,
    /// The one that is used least.
    Headroom,
}
