//! A step of a sign-in.
//!
//! From version 1 the response says how long the sign-in holds (0: until the connection ends).

use bytes::Bytes;

use super::{
    ErrorCode,
    schema::{api, schema},
};

api!(SaslAuthenticate, versions 0..=2, flexible 2, SaslAuthenticateRequest => SaslAuthenticateResponse);

schema! {
    /// The client's token.
    struct SaslAuthenticateRequest {
        auth_bytes: Bytes,
    }

    /// The broker's token.
    struct SaslAuthenticateResponse {
        error_code: ErrorCode,
        error_message: Option<String>,
        auth_bytes: Bytes,
        session_lifetime_ms: i64 [1..],
    }
}
