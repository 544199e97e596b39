//! The tokens of a sign-in: PLAIN (RFC 4616) and SCRAM (RFC 5802, 7677). Pure; [`super::connection`] carries them.

use std::{fmt::Write as _, num::NonZeroU32};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use ring::{digest, hmac, pbkdf2, rand};

use super::security::{Mechanism, Sasl};

/// Below it a password is too cheap to guess (RFC 7677), above it a broker keeps a small board busy for minutes.
const ITERATIONS: std::ops::RangeInclusive<u32> = 4_096..=1_000_000;

/// PLAIN's only token.
pub(super) fn plain(sasl: &Sasl) -> Vec<u8> {
    format!("\0{}\0{}", sasl.username, sasl.password.reveal()).into_bytes()
}

/// One SCRAM exchange: three tokens from the client, of which the last is only a check.
pub(super) struct Scram {
    hmac: hmac::Algorithm,
    pbkdf2: pbkdf2::Algorithm,
    digest: &'static digest::Algorithm,
    nonce: String,
    client_first_bare: String,
    /// The key and the text of which the server must know the signature.
    server: Option<(hmac::Key, String)>,
}

impl Scram {
    /// Begins with a random nonce; the first token.
    pub(super) fn start(sasl: &Sasl) -> Result<(Self, String), String> {
        let bytes: [u8; 24] =
            rand::generate(&rand::SystemRandom::new()).map_err(|_| "no random numbers".to_owned())?.expose();
        Self::with_nonce(sasl, &BASE64.encode(bytes))
    }

    pub(super) fn with_nonce(sasl: &Sasl, nonce: &str) -> Result<(Self, String), String> {
        let (hmac, pbkdf2, digest) = match sasl.mechanism {
            Mechanism::ScramSha256 => (hmac::HMAC_SHA256, pbkdf2::PBKDF2_HMAC_SHA256, &digest::SHA256),
            Mechanism::ScramSha512 => (hmac::HMAC_SHA512, pbkdf2::PBKDF2_HMAC_SHA512, &digest::SHA512),
            Mechanism::Plain => return Err("PLAIN is not SCRAM".into()),
        };
        let name = sasl.username.replace('=', "=3D").replace(',', "=2C");
        let client_first_bare = format!("n={name},r={nonce}");
        let token = format!("n,,{client_first_bare}");
        let nonce = nonce.to_owned();
        Ok((Self { hmac, pbkdf2, digest, nonce, client_first_bare, server: None }, token))
    }

    /// The second token, from the server's challenge.
    pub(super) fn answer(&mut self, sasl: &Sasl, server_first: &[u8]) -> Result<String, String> {
        let server_first = std::str::from_utf8(server_first).map_err(|_| "challenge is not UTF-8")?;
        let field = |name| attribute(server_first, name).ok_or_else(|| format!("challenge lacks '{name}'"));
        let nonce = field('r')?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err("the server's nonce does not continue ours".into());
        }
        let salt = BASE64.decode(field('s')?).map_err(|_| "salt is not base64")?;
        let iterations: u32 = field('i')?.parse().map_err(|_| "iteration count is not a number")?;
        if !ITERATIONS.contains(&iterations) {
            return Err(format!("iteration count {iterations} is not within {ITERATIONS:?}"));
        }
        let iterations = NonZeroU32::new(iterations).ok_or("iteration count is 0")?;
        let mut salted = vec![0; self.digest.output_len()];
        pbkdf2::derive(self.pbkdf2, iterations, &salt, sasl.password.reveal().as_bytes(), &mut salted);
        let salted = hmac::Key::new(self.hmac, &salted);
        let client_key = hmac::sign(&salted, b"Client Key");
        let stored_key = digest::digest(self.digest, client_key.as_ref());
        let mut message = format!("c=biws,r={nonce}");
        let signed = format!("{},{server_first},{message}", self.client_first_bare);
        let signature = hmac::sign(&hmac::Key::new(self.hmac, stored_key.as_ref()), signed.as_bytes());
        let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        let server_key = hmac::sign(&salted, b"Server Key");
        self.server = Some((hmac::Key::new(self.hmac, server_key.as_ref()), signed));
        write!(message, ",p={}", BASE64.encode(proof)).expect("a String takes all");
        Ok(message)
    }

    /// Checks that the server knows the password too.
    pub(super) fn finish(&self, server_final: &[u8]) -> Result<(), String> {
        let server_final = std::str::from_utf8(server_final).map_err(|_| "final message is not UTF-8")?;
        if let Some(error) = attribute(server_final, 'e') {
            return Err(error.to_owned());
        }
        let signature = attribute(server_final, 'v').ok_or("final message lacks 'v'")?;
        let signature = BASE64.decode(signature).map_err(|_| "server signature is not base64")?;
        let (key, signed) = self.server.as_ref().ok_or("final message before the challenge")?;
        hmac::verify(key, signed.as_bytes(), &signature)
            .map_err(|_| "the server's signature is wrong: it does not know the password".into())
    }
}

fn attribute(message: &str, name: char) -> Option<&str> {
    message.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}
