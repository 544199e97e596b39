//! What stands before a request's and a response's body.

use bytes::Bytes;

use super::{
    ApiKey, Message, Request,
    codec::{Decoder, Encoder, Error},
    schema::Wire,
};

/// The header of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// The API asked for; not necessarily one of [`ApiKey`].
    pub api_key: i16,
    /// The version of the request and of the wanted response; not necessarily one that is supported.
    pub api_version: i16,
    /// Returned in the response.
    pub correlation_id: i32,
    /// What the client calls itself.
    pub client_id: Option<String>,
}

impl RequestHeader {
    /// Reads the header; `d` then stands at the body.
    ///
    /// A version from the future is no error here, so that the answer to an ApiVersions request of one carries its
    /// correlation id. Of an unknown API any tagged fields are left as body, for which there is no reader either.
    ///
    /// # Errors
    /// When the frame ends inside the header.
    pub fn decode(d: &mut Decoder) -> Result<Self, Error> {
        d.flexible = false;
        let header = Self {
            api_key: Wire::read(d)?,
            api_version: Wire::read(d)?,
            correlation_id: Wire::read(d)?,
            // Not compact even where the header has tagged fields (KIP-482).
            client_id: Wire::read(d)?,
        };
        let flexible = ApiKey::try_from(header.api_key).is_ok_and(|k| k.api().is_flexible(header.api_version));
        if flexible {
            d.tags(|_, _| Ok(()))?;
        }
        Ok(header)
    }

    fn encode(&self, e: &mut Encoder, flexible: bool) {
        e.flexible = false;
        self.api_key.write(e);
        self.api_version.write(e);
        self.correlation_id.write(e);
        self.client_id.write(e);
        if flexible {
            e.tags(Vec::new());
        }
    }
}

/// Whether the response's header has tagged fields. Never that of ApiVersions: a client that asks it does not know yet
/// what the broker speaks.
fn response_is_flexible(key: ApiKey, version: i16) -> bool {
    key != ApiKey::ApiVersions && key.api().is_flexible(version)
}

/// A whole request frame with the 4-byte length in front, in parts for a vectored write.
pub fn encode_request<R: Request>(
    request: &R,
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
) -> Vec<Bytes> {
    let mut e = Encoder::new();
    0u32.write(&mut e);
    let api_key = R::API.key as i16;
    let header = RequestHeader { api_key, api_version: version, correlation_id, client_id: client_id.map(Into::into) };
    header.encode(&mut e, R::API.is_flexible(version));
    request.encode(&mut e, version);
    e.set_frame_length();
    e.into_segments()
}

/// A whole response frame with the 4-byte length in front, in parts for a vectored write.
pub fn encode_response<M: Message>(response: &M, key: ApiKey, version: i16, correlation_id: i32) -> Vec<Bytes> {
    let mut e = Encoder::new();
    0u32.write(&mut e);
    correlation_id.write(&mut e);
    if response_is_flexible(key, version) {
        e.tags(Vec::new());
    }
    response.encode(&mut e, version);
    e.set_frame_length();
    e.into_segments()
}

/// Reads a response's header and gives its correlation id; `d` then stands at the body.
///
/// # Errors
/// When the frame ends inside the header.
pub fn decode_response_header(d: &mut Decoder, key: ApiKey, version: i16) -> Result<i32, Error> {
    let correlation_id = Wire::read(d)?;
    if response_is_flexible(key, version) {
        d.tags(|_, _| Ok(()))?;
    }
    Ok(correlation_id)
}
