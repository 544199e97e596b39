//! The client's side of TLS: which roots it trusts and which certificate it shows.

use std::{path::PathBuf, sync::Arc};

use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::Error;

/// The files TLS is made of, all PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate authorities to trust; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// Our certificate with its chain, shown when asked for. Needs `key`.
    pub certificate: Option<PathBuf>,
    /// Its private key: PKCS#8, PKCS#1 or SEC1.
    pub key: Option<PathBuf>,
}

/// A TLS configuration, read once and shared by all connections.
#[derive(Clone, Debug)]
pub struct Tls(Arc<ClientConfig>);

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`Error::Tls`] with a line that names the file and what is wrong with it.
    pub fn from_files(files: &TlsFiles) -> Result<Self, Error> {
        let roots = roots(files)?;
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::Tls(e.to_string()))?
            .with_root_certificates(roots);
        let config = match (&files.certificate, &files.key) {
            (Some(certificate), Some(key)) => {
                let chain = certificates(certificate)?;
                let private = PrivateKeyDer::from_pem_file(key)
                    .map_err(|e| Error::Tls(format!("no private key in {}: {e}", key.display())))?;
                let wrong = |e| Error::Tls(format!("{} and {}: {e}", certificate.display(), key.display()));
                builder.with_client_auth_cert(chain, private).map_err(wrong)?
            }
            (None, None) => builder.with_no_client_auth(),
            _ => return Err(Error::Tls("a client certificate needs both a certificate and a key file".into())),
        };
        Ok(Self(Arc::new(config)))
    }

    /// Shakes hands as a client of `host`.
    pub(super) async fn connect(&self, host: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>, Error> {
        let name = ServerName::try_from(host.to_owned()).map_err(|e| Error::Tls(format!("'{host}': {e}")))?;
        TlsConnector::from(Arc::clone(&self.0)).connect(name, stream).await.map_err(|e| Error::Tls(e.to_string()))
    }
}

fn roots(files: &TlsFiles) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    if let Some(ca) = &files.ca {
        for certificate in certificates(ca)? {
            roots.add(certificate).map_err(|e| Error::Tls(format!("{}: {e}", ca.display())))?;
        }
    } else {
        let system = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(system.certs);
        if roots.is_empty() {
            let why = system.errors.first().map_or_else(String::new, |e| format!(": {e}"));
            return Err(Error::Tls(format!("the system has no certificate authorities{why}; set ca_file")));
        }
    }
    Ok(roots)
}

fn certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, Error> {
    let wrong = |e: &dyn std::fmt::Display| Error::Tls(format!("{}: {e}", path.display()));
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(|e| wrong(&e))?.collect();
    let all = all.map_err(|e| wrong(&e))?;
    if all.is_empty() { Err(wrong(&"holds no certificate")) } else { Ok(all) }
}
