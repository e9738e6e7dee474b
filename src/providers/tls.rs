//! More certificates to trust.

use ureq::tls::{Certificate, PemItem, parse_pem};

/// The certificates in a PEM file; the proxy trusts the same.
pub(crate) fn certificates(path: &std::path::Path) -> Result<Vec<Certificate<'static>>, String> {
    let pem = std::fs::read(path).map_err(|error| error.to_string())?;
    let certificates: Vec<Certificate<'static>> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err("it holds no certificate".into());
    }
    Ok(certificates)
}
