//! How a connection is secured and signed in.

use super::tls::Tls;
use crate::secret::Secret;

/// Kafka's `security.protocol`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Protocol {
    /// Neither encrypted nor signed in.
    #[default]
    Plaintext,
    /// TLS.
    Ssl,
    /// Signed in, not encrypted.
    SaslPlaintext,
    /// TLS and signed in.
    SaslSsl,
}

impl Protocol {
    /// Kafka's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plaintext => "PLAINTEXT",
            Self::Ssl => "SSL",
            Self::SaslPlaintext => "SASL_PLAINTEXT",
            Self::SaslSsl => "SASL_SSL",
        }
    }

    /// True if it encrypts.
    pub fn has_tls(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }

    /// True if it signs in.
    pub fn has_sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

/// Kafka's `sasl.mechanism`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub enum Mechanism {
    /// Name and password in clear: only within TLS.
    #[serde(rename = "PLAIN")]
    Plain,
    /// Salted challenge and response with SHA-256.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// The same with SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

impl Mechanism {
    /// Kafka's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// Who signs in.
#[derive(Clone, Debug)]
pub struct Sasl {
    /// How.
    pub mechanism: Mechanism,
    /// As whom.
    pub username: String,
    /// With what.
    pub password: Secret,
}

/// What a connection does before the first request. `Default` is PLAINTEXT.
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// Encryption; `None`: none.
    pub tls: Option<Tls>,
    /// Sign-in; `None`: none.
    pub sasl: Option<Sasl>,
}
