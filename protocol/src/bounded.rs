//! Collections whose greatest length is part of their type: nothing from the wire can grow past it.
//!
//! The bound is checked before memory is taken, so a lying length costs its sender nothing but a refusal.

use std::fmt;
use std::ops::Deref;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// For so many items room is made before they have been seen: what stands before them says how many there are, and may lie.
const AT_ONCE: usize = 16;

/// More items than the type allows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given} {unit} given, at most {bound} are allowed")]
pub struct TooLong {
    /// How many there were.
    pub given: usize,
    /// How many there may be.
    pub bound: usize,
    /// What is counted.
    pub unit: &'static str,
}

/// A list of at most `N` items. It doesn't grow, so that thousands of short ones take no more room than they need.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct BoundedVec<T, const N: usize>(Box<[T]>);

impl<T, const N: usize> BoundedVec<T, N> {
    /// An empty one.
    pub fn new() -> Self {
        Self(Box::default())
    }
    /// The items.
    pub fn into_inner(self) -> Vec<T> {
        self.0.into_vec()
    }
}

impl<T, const N: usize> Default for BoundedVec<T, N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, const N: usize> TryFrom<Vec<T>> for BoundedVec<T, N> {
    type Error = TooLong;
    fn try_from(items: Vec<T>) -> Result<Self, TooLong> {
        if items.len() > N {
            return Err(TooLong { given: items.len(), bound: N, unit: "items" });
        }
        Ok(Self(items.into()))
    }
}

impl<T, const N: usize> Deref for BoundedVec<T, N> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: fmt::Debug, const N: usize> fmt::Debug for BoundedVec<T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for BoundedVec<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T, const N: usize>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for Items<T, N> {
            type Value = Box<[T]>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {N} items")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Box<[T]>, A::Error> {
                if let Some(given) = seq.size_hint().filter(|&given| given > N) {
                    return Err(A::Error::custom(TooLong { given, bound: N, unit: "items" }));
                }
                let mut items = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(AT_ONCE));
                while let Some(item) = seq.next_element()? {
                    if items.len() == N {
                        return Err(A::Error::custom(TooLong { given: N + 1, bound: N, unit: "items" }));
                    }
                    items.push(item);
                }
                Ok(items.into())
            }
        }
        deserializer.deserialize_seq(Items::<T, N>(std::marker::PhantomData)).map(Self)
    }
}

/// UTF-8 text of at most `N` bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct BoundedString<const N: usize>(Box<str>);

impl<const N: usize> BoundedString<N> {
    /// `text`, cut at the last character that fits.
    pub fn cut(text: &str) -> Self {
        let mut end = text.len().min(N);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self(text[..end].into())
    }
}

impl<const N: usize> TryFrom<String> for BoundedString<N> {
    type Error = TooLong;
    fn try_from(text: String) -> Result<Self, TooLong> {
        if text.len() > N {
            return Err(TooLong { given: text.len(), bound: N, unit: "bytes of text" });
        }
        Ok(Self(text.into()))
    }
}

impl<const N: usize> TryFrom<&str> for BoundedString<N> {
    type Error = TooLong;
    fn try_from(text: &str) -> Result<Self, TooLong> {
        Self::try_from(text.to_owned())
    }
}

impl<const N: usize> Deref for BoundedString<N> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl<const N: usize> fmt::Display for BoundedString<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<const N: usize> fmt::Debug for BoundedString<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de, const N: usize> Deserialize<'de> for BoundedString<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The codec hands out borrowed text, so that a length over the bound is refused before it is copied.
        struct Text<const N: usize>;
        impl<const N: usize> Visitor<'_> for Text<N> {
            type Value = Box<str>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "text of at most {N} bytes")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Box<str>, E> {
                if text.len() > N {
                    return Err(E::custom(TooLong { given: text.len(), bound: N, unit: "bytes of text" }));
                }
                Ok(text.into())
            }
        }
        deserializer.deserialize_str(Text::<N>).map(Self)
    }
}

/// At most `N` bytes: as a [`BoundedVec`] of them, which the codec spells alike, and taken as a whole.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BoundedBytes<const N: usize>(Box<[u8]>);

impl<const N: usize> BoundedBytes<N> {
    /// The bytes.
    pub fn into_inner(self) -> Vec<u8> {
        self.0.into_vec()
    }
}

impl<const N: usize> TryFrom<Vec<u8>> for BoundedBytes<N> {
    type Error = TooLong;
    fn try_from(bytes: Vec<u8>) -> Result<Self, TooLong> {
        if bytes.len() > N {
            return Err(TooLong { given: bytes.len(), bound: N, unit: "bytes" });
        }
        Ok(Self(bytes.into()))
    }
}

impl<const N: usize> Deref for BoundedBytes<N> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl<const N: usize> fmt::Debug for BoundedBytes<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<const N: usize> Serialize for BoundedBytes<N> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de, const N: usize> Deserialize<'de> for BoundedBytes<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The codec hands out borrowed bytes, so that a length over the bound is refused before they are copied.
        struct Bytes<const N: usize>;
        impl<'de, const N: usize> Visitor<'de> for Bytes<N> {
            type Value = Box<[u8]>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {N} bytes")
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Box<[u8]>, E> {
                if bytes.len() > N {
                    return Err(E::custom(TooLong { given: bytes.len(), bound: N, unit: "bytes" }));
                }
                Ok(bytes.into())
            }
            // JSON has no bytes.
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Box<[u8]>, A::Error> {
                let items = serde::de::value::SeqAccessDeserializer::new(seq);
                Ok(BoundedVec::<u8, N>::deserialize(items)?.0)
            }
        }
        deserializer.deserialize_bytes(Bytes::<N>).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    /// What is longer than the bound is refused, whoever made it.
    #[test]
    fn longer_than_the_bound_is_refused() {
        assert!(BoundedVec::<u8, 2>::try_from(vec![1, 2, 3]).is_err());
        assert!(BoundedString::<2>::try_from("abc").is_err());
        let long = codec::encode(&vec![1u8, 2, 3]);
        assert!(codec::decode::<BoundedVec<u8, 2>>(&long, 64).is_err());
        assert_eq!(&*codec::decode::<BoundedVec<u8, 3>>(&long, 64).unwrap(), [1, 2, 3]);
        let text = codec::encode("abc");
        assert!(codec::decode::<BoundedString<2>>(&text, 64).is_err());
        assert_eq!(&*codec::decode::<BoundedString<3>>(&text, 64).unwrap(), "abc");
        assert_eq!(&*BoundedString::<4>::cut("añño"), "añ");
    }

    /// Bytes that are taken as a whole are spelled as a list of them, and refused where that is.
    #[test]
    fn bytes_are_spelled_as_a_list_of_them() {
        let bytes = BoundedBytes::<3>::try_from(vec![1, 2, 3]).unwrap();
        let spelled = codec::encode(&vec![1u8, 2, 3]);
        assert_eq!(codec::encode(&bytes), spelled);
        assert_eq!(codec::decode::<BoundedBytes<3>>(&spelled, 64).unwrap(), bytes);
        assert!(codec::decode::<BoundedBytes<2>>(&spelled, 64).is_err() && BoundedBytes::<2>::try_from(vec![1, 2, 3]).is_err());
        for end in 0..spelled.len() {
            assert!(codec::decode::<BoundedBytes<3>>(&spelled[..end], 64).is_err());
        }
        let json = serde_json::to_string(&bytes).unwrap();
        assert_eq!(json, "[1,2,3]");
        assert_eq!(serde_json::from_str::<BoundedBytes<3>>(&json).unwrap(), bytes);
        assert!(serde_json::from_str::<BoundedBytes<2>>(&json).is_err());
    }

    /// A length of 2^60 must not take memory.
    #[test]
    fn lying_length_is_refused_before_memory_is_taken() {
        let mut bytes = (1u64 << 60).to_le_bytes().to_vec();
        bytes.push(0);
        assert!(codec::decode::<BoundedVec<u8, 1024>>(&bytes, 64).is_err());
        assert!(codec::decode::<BoundedString<1024>>(&bytes, 64).is_err());
        assert!(codec::decode::<BoundedBytes<1024>>(&bytes, 64).is_err());
    }
}
