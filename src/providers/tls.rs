//! What checks and requests through the proxy have in common on their way to a provider: the
//! cryptography, the certificates that are trusted besides the bundled ones, and the type of a proxy on
//! the way.

pub(crate) use ureq::{Proxy, ProxyProtocol};

use crate::common::private_file;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, KeyProvider, ring};
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::SigningKey;
use ureq::tls::{Certificate, PemItem, parse_pem};

/// Bytes of such a file. All authorities that a system trusts take some 250 kB.
const LARGEST: u64 = 16 << 20;

/// The certificates in a PEM file; the proxy trusts the same.
pub(crate) fn certificates(path: &std::path::Path) -> Result<Vec<Certificate<'static>>, String> {
    let pem = private_file::read_named(path, LARGEST).map_err(|error| error.to_string())?;
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

/// ring, without what it takes to sign: no provider asks for a certificate of its client, and the
/// static binary is smaller without it.
pub(crate) fn cryptography() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        key_provider: &NoClientCertificate,
        ..ring::default_provider()
    })
}

#[derive(Debug)]
struct NoClientCertificate;

impl KeyProvider for NoClientCertificate {
    fn load_private_key(
        &self,
        _: PrivateKeyDer<'static>,
    ) -> Result<Arc<dyn SigningKey>, rustls::Error> {
        Err(rustls::Error::General("no client certificates".into()))
    }
}
