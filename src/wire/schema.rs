//! The schema language: what a field's type means on the wire, and the macro that makes a struct of a list of fields.
//!
//! A field reads `name: Type [versions; null versions; tag n] = default`, all after the type optional. `versions` is
//! where the field is on the wire: elsewhere it is skipped when written and takes its default when read. `null` is
//! where an `Option` may be null: elsewhere null is written and read as the empty value. A `tag` puts the field among
//! the tagged fields at the end of its struct, where it is written only when it differs from its default.
//! `tests/wire_oracle.rs` reads this syntax too, line by line.

use bytes::Bytes;

use super::codec::{Decoder, Encoder, Error};

/// Something with a form on the wire in the version of its encoder or decoder.
pub(super) trait Wire: Sized {
    fn read(d: &mut Decoder) -> Result<Self, Error>;
    fn write(&self, e: &mut Encoder);
}

/// A type that has a null. Structs say so by a byte in front; strings, bytes and arrays by their length.
pub(super) trait Nullable: Wire + Default {
    fn read_nullable(d: &mut Decoder) -> Result<Option<Self>, Error> {
        if i8::read(d)? < 0 { Ok(None) } else { Self::read(d).map(Some) }
    }

    fn write_nullable(value: Option<&Self>, e: &mut Encoder) {
        match value {
            None => (-1i8).write(e),
            Some(value) => {
                1i8.write(e);
                value.write(e);
            }
        }
    }
}

macro_rules! numbers {
    ($($type:ty)*) => {$(
        impl Wire for $type {
            fn read(d: &mut Decoder) -> Result<Self, Error> {
                Ok(Self::from_be_bytes(d.array()?))
            }
            fn write(&self, e: &mut Encoder) {
                e.put(&self.to_be_bytes());
            }
        }
    )*};
}

numbers!(i8 i16 i32 i64 u16 u32 f64);

impl Wire for bool {
    fn read(d: &mut Decoder) -> Result<Self, Error> {
        Ok(d.array::<1>()? != [0])
    }
    fn write(&self, e: &mut Encoder) {
        e.put(&[u8::from(*self)]);
    }
}

/// A topic's or other UUID, big-endian; all zeros means none.
pub type Uuid = [u8; 16];

impl Wire for Uuid {
    fn read(d: &mut Decoder) -> Result<Self, Error> {
        d.array()
    }
    fn write(&self, e: &mut Encoder) {
        e.put(self);
    }
}

/// What an allocation takes beside its bytes, about.
const ALLOCATION_BYTES: usize = 24;

impl Nullable for String {
    fn read_nullable(d: &mut Decoder) -> Result<Option<Self>, Error> {
        let Some(n) = d.length16()? else { return Ok(None) };
        if n > 0 {
            d.take(n + ALLOCATION_BYTES)?;
        }
        Ok(Some(d.str(n)?.to_owned()))
    }
    fn write_nullable(value: Option<&Self>, e: &mut Encoder) {
        // What the old length cannot say is cut, at a character: only free text, such as error messages, gets near.
        let mut n = value.map_or(0, String::len);
        if !e.flexible {
            n = n.min(i16::MAX as usize);
        }
        while value.is_some_and(|s| !s.is_char_boundary(n)) {
            n -= 1;
        }
        e.length16(value.map(|_| n));
        e.put(value.map_or(&[], |s| &s.as_bytes()[..n]));
    }
}

impl Wire for String {
    fn read(d: &mut Decoder) -> Result<Self, Error> {
        Self::read_nullable(d)?.ok_or(Error::Malformed("string: null"))
    }
    fn write(&self, e: &mut Encoder) {
        Self::write_nullable(Some(self), e);
    }
}

impl Nullable for Bytes {
    fn read_nullable(d: &mut Decoder) -> Result<Option<Self>, Error> {
        let Some(n) = d.length32()? else { return Ok(None) };
        d.bytes(n).map(Some)
    }
    fn write_nullable(value: Option<&Self>, e: &mut Encoder) {
        e.length32(value.map(Self::len));
        if let Some(bytes) = value {
            e.put_bytes(bytes);
        }
    }
}

/// Null is read as empty, and empty never written as null: librdkafka and kafka-python fail on a Fetch response whose
/// records are null.
impl Wire for Bytes {
    fn read(d: &mut Decoder) -> Result<Self, Error> {
        Ok(Self::read_nullable(d)?.unwrap_or_default())
    }
    fn write(&self, e: &mut Encoder) {
        Self::write_nullable(Some(self), e);
    }
}

impl<T: Wire> Nullable for Vec<T> {
    fn read_nullable(d: &mut Decoder) -> Result<Option<Self>, Error> {
        let Some(n) = d.length32()? else { return Ok(None) };
        // An honest sender's array fits; a liar's grows only as far as its bytes go.
        let mut items = Self::with_capacity(n.min(16));
        for _ in 0..n {
            d.take(size_of::<T>())?;
            items.push(T::read(d)?);
        }
        Ok(Some(items))
    }
    fn write_nullable(value: Option<&Self>, e: &mut Encoder) {
        e.length32(value.map(Self::len));
        for item in value.into_iter().flatten() {
            item.write(e);
        }
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn read(d: &mut Decoder) -> Result<Self, Error> {
        Self::read_nullable(d)?.ok_or(Error::Malformed("array: null"))
    }
    fn write(&self, e: &mut Encoder) {
        Self::write_nullable(Some(self), e);
    }
}

impl<T: Nullable> Wire for Option<T> {
    fn read(d: &mut Decoder) -> Result<Self, Error> {
        T::read_nullable(d)
    }
    fn write(&self, e: &mut Encoder) {
        T::write_nullable(self.as_ref(), e);
    }
}

/// Writes `value`, or the empty value in its place where null is not allowed.
pub(super) fn write_never_null<T: Nullable>(value: &Option<T>, e: &mut Encoder) {
    match value {
        Some(value) => T::write_nullable(Some(value), e),
        None => T::write_nullable(Some(&T::default()), e),
    }
}

/// Adds a tagged field to those of its struct, unless it holds its default.
pub(super) fn push_tagged<T: Wire + PartialEq>(
    tag: u32,
    value: &T,
    default: &T,
    e: &Encoder,
    tagged: &mut Vec<(u32, Encoder)>,
) {
    if value != default {
        let mut field = e.fork();
        value.write(&mut field);
        tagged.push((tag, field));
    }
}

/// Makes structs of lists of fields; see the module's documentation for the fields' syntax.
macro_rules! schema {
    ($(
        $(#[$meta:meta])*
        struct $name:ident {
            $(
                $(#[$field_meta:meta])*
                $field:ident : $type:ty
                    $([$versions:expr $(; null $nulls:expr)? $(; tag $tag:literal)?])?
                    $(= $default:expr)?
            ),* $(,)?
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, reason = "the fields are Kafka's, their names and order too")]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $crate::wire::schema::field!(default $($default)?),)* }
            }
        }

        impl $crate::wire::schema::Wire for $name {
            fn read(d: &mut $crate::wire::codec::Decoder) -> Result<Self, $crate::wire::codec::Error> {
                #[allow(unused_mut, reason = "a struct may have no fields")]
                let mut new = Self::default();
                $($crate::wire::schema::field!(read d, new.$field $([$versions $(; null $nulls)? $(; tag $tag)?])?);)*
                if d.flexible {
                    #[allow(unused_variables, reason = "most structs have no tagged fields")]
                    d.tags(|tag, d| {
                        $($($(if tag == $tag && ($versions).contains(&d.version) {
                            new.$field = $crate::wire::schema::Wire::read(d)?;
                        })?)?)*
                        Ok(())
                    })?;
                }
                Ok(new)
            }

            fn write(&self, e: &mut $crate::wire::codec::Encoder) {
                $($crate::wire::schema::field!(write e, self.$field $([$versions $(; null $nulls)? $(; tag $tag)?])?);)*
                if e.flexible {
                    #[allow(unused_mut, reason = "most structs have no tagged fields")]
                    let mut tagged = Vec::new();
                    $($crate::wire::schema::field!(
                        tag e, tagged, self.$field { $($default)? } $([$versions $(; null $nulls)? $(; tag $tag)?])?
                    );)*
                    e.tags(tagged);
                }
            }
        }

        impl $crate::wire::schema::Nullable for $name {}
    )*};
}

/// One field of [`schema!`], for one purpose.
macro_rules! field {
    (default) => {
        Default::default()
    };
    (default $default:expr) => {
        $default
    };

    (read $d:ident, $new:ident.$field:ident) => {
        $new.$field = $crate::wire::schema::Wire::read($d)?
    };
    (read $d:ident, $new:ident.$field:ident [$versions:expr $(; null $nulls:expr)?; tag $tag:literal]) => {};
    (read $d:ident, $new:ident.$field:ident [$versions:expr]) => {
        if ($versions).contains(&$d.version) {
            $new.$field = $crate::wire::schema::Wire::read($d)?;
        }
    };
    (read $d:ident, $new:ident.$field:ident [$versions:expr; null $nulls:expr]) => {
        if ($versions).contains(&$d.version) {
            $new.$field = $crate::wire::schema::Wire::read($d)?;
            if !($nulls).contains(&$d.version) {
                $new.$field.get_or_insert_default();
            }
        }
    };

    (tag $e:ident, $tagged:ident, $self:ident.$field:ident { $($default:expr)? }
        [$versions:expr $(; null $nulls:expr)?; tag $tag:literal]) => {
        if ($versions).contains(&$e.version) {
            let default = $crate::wire::schema::field!(default $($default)?);
            $crate::wire::schema::push_tagged($tag, &$self.$field, &default, $e, &mut $tagged);
        }
    };
    (tag $($rest:tt)*) => {};

    (write $e:ident, $self:ident.$field:ident) => {
        $crate::wire::schema::Wire::write(&$self.$field, $e)
    };
    (write $e:ident, $self:ident.$field:ident [$versions:expr $(; null $nulls:expr)?; tag $tag:literal]) => {};
    (write $e:ident, $self:ident.$field:ident [$versions:expr]) => {
        if ($versions).contains(&$e.version) {
            $crate::wire::schema::Wire::write(&$self.$field, $e);
        }
    };
    (write $e:ident, $self:ident.$field:ident [$versions:expr; null $nulls:expr]) => {
        if ($versions).contains(&$e.version) {
            if ($nulls).contains(&$e.version) {
                $crate::wire::schema::Wire::write(&$self.$field, $e);
            } else {
                $crate::wire::schema::write_never_null(&$self.$field, $e);
            }
        }
    };
}

/// States an API's versions, its first flexible version, and its two messages.
macro_rules! api {
    (
        $key:ident, versions $min:literal ..= $max:literal $((advertised from $advertised:literal))?,
        flexible $flexible:tt, $request:ident => $response:ident
    ) => {
        $crate::wire::schema::message!($request, $min..=$max, flexible $flexible);
        $crate::wire::schema::message!($response, $min..=$max, flexible $flexible);

        impl $crate::wire::Request for $request {
            const API: $crate::wire::Api = $crate::wire::Api {
                key: $crate::wire::ApiKey::$key,
                min: $min,
                max: $max,
                advertised_min: [$min $(- $min + $advertised)?][0],
                flexible_from: $crate::wire::schema::flexible!($flexible),
            };
            type Response = $response;
        }
    };
}

/// Makes a struct a whole message, with versions of its own.
macro_rules! message {
    ($name:ident, $min:literal ..= $max:literal, flexible $flexible:tt) => {
        impl $crate::wire::Message for $name {
            const VERSIONS: std::ops::RangeInclusive<i16> = $min..=$max;

            fn decode(d: &mut $crate::wire::Decoder, version: i16) -> Result<Self, $crate::wire::Error> {
                if !Self::VERSIONS.contains(&version) {
                    return Err($crate::wire::Error::Version(version));
                }
                d.version = version;
                d.flexible = version >= $crate::wire::schema::flexible!($flexible);
                $crate::wire::schema::Wire::read(d)
            }

            fn encode(&self, e: &mut $crate::wire::Encoder, version: i16) {
                debug_assert!(Self::VERSIONS.contains(&version), "version {version} is not negotiable");
                e.version = version;
                e.flexible = version >= $crate::wire::schema::flexible!($flexible);
                $crate::wire::schema::Wire::write(self, e);
            }
        }
    };
}

macro_rules! flexible {
    (never) => {
        i16::MAX
    };
    ($from:literal) => {
        $from
    };
}

pub(super) use {api, field, flexible, message, schema};
