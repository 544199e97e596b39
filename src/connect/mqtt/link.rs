//! The way to a broker: TCP, and TLS on top of it by rustls with ring.
//!
//! Reads certificate and password files anew for each connection, so that rotated ones are used. Never speaks MQTT.

use std::{io, path::Path, sync::Arc};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::config::{Address, Config};

/// A connection to a broker.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects to `address`; the error is one line for people.
pub(super) async fn connect(address: &Address, config: &Config) -> Result<Box<dyn Stream>, String> {
    let tls = if address.is_tls { Some(client_config(config)?) } else { None };
    let tcp = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(|e| format!("{e}"))?;
    // Acknowledgements are small and the broker waits for them.
    tcp.set_nodelay(true).map_err(|e| format!("{e}"))?;
    let Some(tls) = tls else { return Ok(Box::new(tcp)) };
    let name = ServerName::try_from(address.host.clone())
        .map_err(|_| format!("'{}' can be no name in a certificate", address.host))?;
    let stream = TlsConnector::from(tls).connect(name, tcp).await.map_err(|e| format!("TLS: {e}"))?;
    Ok(Box::new(stream))
}

/// The password from the configuration or its file.
pub(super) fn password(config: &Config) -> Result<Option<String>, String> {
    if let Some(secret) = &config.password {
        return Ok(Some(secret.reveal().to_owned()));
    }
    let Some(path) = &config.password_file else { return Ok(None) };
    let mut text = std::fs::read_to_string(path).map_err(|e| unreadable("password_file", path, &e))?;
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    Ok(Some(text))
}

fn unreadable(key: &str, path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{key} '{}': {error}", path.display())
}

/// What we trust and who we are.
pub(super) fn client_config(config: &Config) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match &config.ca_file {
        Some(path) => {
            for certificate in certificates("ca_file", path)? {
                roots.add(certificate).map_err(|e| unreadable("ca_file", path, &e))?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            let (added, _unusable) = roots.add_parsable_certificates(found.certs);
            if added == 0 {
                return Err("the system has no certificate authorities; install ca-certificates or set ca_file".into());
            }
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS: {e}"))?
        .with_root_certificates(roots);
    let config = match (&config.certificate_file, &config.key_file) {
        (Some(certificate_file), Some(key_file)) => {
            let chain = certificates("certificate_file", certificate_file)?;
            let key = PrivateKeyDer::from_pem_file(key_file).map_err(|e| unreadable("key_file", key_file, &e))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|e| unreadable("certificate_file", certificate_file, &e))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| unreadable(key, path, &e))?;
    if found.is_empty() {
        return Err(unreadable(key, path, &io::Error::other("no PEM certificate in it")));
    }
    Ok(found)
}
