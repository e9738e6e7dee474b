//! What checks and requests through the proxy have in common on their way to a provider: the
//! cryptography, the certificates that are trusted besides the bundled ones, and the type of a proxy on
//! the way.

pub(crate) use ureq::{Proxy, ProxyProtocol};

use crate::common::private_file;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, KeyProvider, ring};
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::SigningKey;
use ureq::tls::{Certificate, PemItem, parse_pem};

/// Bytes of such a file. All authorities that a system trusts take some 250 kB.
const LARGEST: u64 = 16 << 20;

/// The variables that name files of more certificates to trust. The second is that of Node.js, which many
/// clients run on: where a company looks into TLS, it is set for them.
pub(crate) const CERTIFICATE_VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"];

/// The certificates of these files, each with the variable that names it. One that holds none is passed
/// over.
pub(crate) fn trusted(files: &[(&str, PathBuf)]) -> Vec<Certificate<'static>> {
    let mut trusted = Vec::new();
    for (variable, path) in files {
        match certificates(path) {
            Ok(more) => trusted.extend(more),
            Err(why) => log::warn!("{variable} '{}' is not used: {why}", path.display()),
        }
    }
    trusted
}

/// Why there is no connection, with the way out where it is a certificate that nobody here knows the
/// issuer of.
pub(crate) fn with_hint(mut why: String) -> String {
    // rustls gives a word of its own code for it, also where it reports through a stream.
    if why.ends_with("UnknownIssuer") {
        why += "; hint: SSL_CERT_FILE can name a file with the certificates to trust";
    }
    why
}

/// The certificates in a PEM file.
///
/// # Errors
/// It cannot be read, or holds none: why, in a few words.
pub(crate) fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, String> {
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
