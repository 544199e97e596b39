//! Choosing the mechanism of a sign-in.
//!
//! After version 0 the tokens follow bare, each after a 4-byte length; after version 1 within SaslAuthenticate.

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(SaslHandshake, versions 0..=1, flexible never, SaslHandshakeRequest => SaslHandshakeResponse);

schema! {
    /// The mechanism wanted.
    struct SaslHandshakeRequest {
        mechanism: String,
    }

    /// The mechanisms there are.
    struct SaslHandshakeResponse {
        error_code: ErrorCode,
        mechanisms: Vec<String>,
    }
}
