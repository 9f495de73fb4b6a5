//! Which schema a value was written with: one byte before its own, the number of the schema in the list of
//! its resource (`docs/directory.md`).

use std::any::type_name;

use bytes::Bytes;

use crate::codec::DecodeError;
use crate::error::Error;
use crate::resource::SchemaId;
use crate::stored::Stored;

/// The schemas of a resource, as they were when a handle was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Schemas {
    /// The handle's own.
    own: u8,
    /// All of them, in the order of their numbers.
    known: Vec<SchemaId>,
}

impl Schemas {
    /// Of a handle that was opened with one of the list.
    pub(crate) fn new(own: &SchemaId, known: Vec<SchemaId>) -> Result<Self, Error> {
        let at = known.iter().position(|schema| schema == own);
        match at.map(u8::try_from) {
            Some(Ok(own)) => Ok(Self { own, known }),
            _ => Err(Error::InternalError {
                what: format!("a resource was opened with schema={own}, which it does not have"),
            }),
        }
    }

    /// A value, as it is kept.
    pub(crate) fn payload<T: Stored>(&self, value: &T) -> Bytes {
        let value = value.to_bytes();
        let mut payload = Vec::with_capacity(value.len() + 1);
        payload.push(self.own);
        payload.extend_from_slice(&value);
        payload.into()
    }

    /// The value of a payload, whichever schema it was written with.
    pub(crate) fn value<T: Stored>(&self, payload: &Bytes) -> Result<T, Error> {
        let Some((number, _)) = payload.split_first() else {
            return decoded(Err(DecodeError { what: "schema of a value" }));
        };
        let raw = payload.slice(1..);
        if *number == self.own {
            return decoded(T::from_bytes(&raw));
        }
        let own = &self.known[usize::from(self.own)];
        let Some(schema) = self.known.get(usize::from(*number)) else {
            return Err(Error::Incompatible {
                expected: format!("schema={own}"),
                found: format!(
                    "a value of schema number {number}, which was added since: open the resource again"
                ),
            });
        };
        T::from_schema(schema, &raw).map_err(|error| Error::Incompatible {
            expected: format!("schema={own}"),
            found: format!("schema={schema}: {error}"),
        })
    }
}

/// A value or key that was read, or why it is none.
pub(crate) fn decoded<T>(value: Result<T, DecodeError>) -> Result<T, Error> {
    value.map_err(|error| Error::Incompatible {
        expected: type_name::<T>().to_owned(),
        found: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(name: &str) -> SchemaId {
        SchemaId::new(name).unwrap()
    }

    fn schemas(own: &str, known: &[&str]) -> Schemas {
        Schemas::new(&schema(own), known.iter().map(|name| schema(name)).collect()).unwrap()
    }

    /// Reads numbers that were written as text.
    #[derive(Debug, PartialEq, Eq)]
    struct Number(u64);

    impl Stored for Number {
        fn to_bytes(&self) -> Bytes {
            self.0.to_bytes()
        }

        fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
            u64::from_bytes(bytes).map(Self)
        }

        fn from_schema(schema: &SchemaId, bytes: &Bytes) -> Result<Self, DecodeError> {
            let unknown = DecodeError { what: "number" };
            match schema.as_str() {
                "text" => String::from_bytes(bytes)?.parse().map(Self).map_err(|_| unknown),
                _ => Err(unknown),
            }
        }
    }

    #[test]
    fn a_value_is_read_by_the_schema_it_was_written_with() {
        let (old, new) = (schemas("text", &["text"]), schemas("raw", &["text", "raw", "odd"]));
        assert_eq!(new.value::<Number>(&new.payload(&Number(7))).unwrap(), Number(7));
        assert_eq!(new.value::<Number>(&old.payload(&"7".to_owned())).unwrap(), Number(7));
        let refused = |read: Result<Number, Error>| match read.unwrap_err() {
            Error::Incompatible { expected, found } => (expected, found),
            error => panic!("{error}"),
        };
        let odd = schemas("odd", &["text", "raw", "odd"]);
        let (expected, found) = refused(new.value(&odd.payload(&7_u64)));
        assert_eq!(
            (expected.as_str(), found.as_str()),
            ("schema=raw", "schema=odd: malformed number")
        );
        let (expected, found) = refused(old.value(&new.payload(&Number(7))));
        assert_eq!(expected, "schema=text");
        assert!(found.contains("number 1, which was added since"), "{found}");
        // What is not said to be readable is not guessed.
        let text = new.value::<u64>(&old.payload(&"seven up".to_owned()));
        assert!(matches!(text, Err(Error::Incompatible { .. })), "{text:?}");
        refused(old.value(&Bytes::new()));
    }
}
