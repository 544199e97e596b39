//! The Kafka protocol's messages: one file per API, holding its request and its response as Kafka's schema lists them.
//!
//! Never behaves: no I/O, no state, no defaults of the broker. Server and clients share it.
//!
//! * Nothing a peer sends panics, and no length it claims sizes an allocation: a length beyond the frame is an error,
//!   an array grows with the elements really read. Nesting is the schema's.
//! * Byte fields of a decoded message are slices of its frame; large ones of an encoded message are kept by reference.
//! * A field that the version does not have is skipped when written and takes its default when read, so one struct
//!   serves all versions. Unknown tagged fields and bytes after the last field are skipped: librdkafka sends both.

mod codec;
mod error_code;
mod header;
mod schema;

pub use codec::{Decoder, Encoder, Error};
pub use error_code::ErrorCode;
pub use header::{RequestHeader, decode_response_header, encode_request, encode_response};
pub use schema::Uuid;

/// A message that is not part of another: a request, a response, or the bytes group members pass each other.
pub trait Message: Sized {
    /// The versions that can be read and written.
    const VERSIONS: std::ops::RangeInclusive<i16>;

    /// Reads the message; what follows it in the frame is left unread.
    ///
    /// # Errors
    /// On bytes that are not this message, and on a version outside [`VERSIONS`](Self::VERSIONS).
    fn decode(d: &mut Decoder, version: i16) -> Result<Self, Error>;

    /// Writes the message in `version`, which lies within [`VERSIONS`](Self::VERSIONS).
    fn encode(&self, e: &mut Encoder, version: i16);
}

/// A request: names its API and its response, so that a client's call is one function.
pub trait Request: Message {
    /// Key and versions.
    const API: Api;
    /// What answers it.
    type Response: Message;
}

/// One row of the protocol's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Api {
    /// The key.
    pub key: ApiKey,
    /// The lowest version spoken.
    pub min: i16,
    /// The highest version spoken.
    pub max: i16,
    /// The lowest version to claim in ApiVersions: that of Produce is below [`min`](Self::min).
    pub advertised_min: i16,
    /// The first version with compact lengths and tagged fields.
    pub flexible_from: i16,
}

impl Api {
    /// Whether `version` is spoken.
    pub const fn supports(&self, version: i16) -> bool {
        self.min <= version && version <= self.max
    }

    /// Whether `version` has compact lengths and tagged fields.
    pub const fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible_from
    }
}

macro_rules! apis {
    ($($key:literal $name:ident in $module:ident: $request:ident,)*) => {
        $(pub mod $module;)*

        /// The APIs by Kafka's names; the number is the key in a request's header.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i16)]
        #[allow(missing_docs, reason = "the names are Kafka's and documented at their modules")]
        pub enum ApiKey {
            $($name = $key,)*
        }

        /// Every API, ascending by key.
        pub const APIS: &[Api] = &[$(<$module::$request as Request>::API,)*];

        impl ApiKey {
            /// Its row of the table.
            pub const fn api(self) -> &'static Api {
                match self {
                    $(Self::$name => const { &<$module::$request as Request>::API },)*
                }
            }

            /// Kafka's name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }

        /// Fails with the key itself where there is no such API.
        impl TryFrom<i16> for ApiKey {
            type Error = i16;

            fn try_from(key: i16) -> Result<Self, i16> {
                match key {
                    $($key => Ok(Self::$name),)*
                    _ => Err(key),
                }
            }
        }
    };
}

apis! {
    0 Produce in produce: ProduceRequest,
    1 Fetch in fetch: FetchRequest,
    2 ListOffsets in list_offsets: ListOffsetsRequest,
    3 Metadata in metadata: MetadataRequest,
    10 FindCoordinator in find_coordinator: FindCoordinatorRequest,
    18 ApiVersions in api_versions: ApiVersionsRequest,
    22 InitProducerId in init_producer_id: InitProducerIdRequest,
}
