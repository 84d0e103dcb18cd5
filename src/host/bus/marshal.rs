//! Values as the bytes of a D-Bus message, and back (dbus specification, "Marshaling").
//!
//! Runs outside. What arrives is somebody else's: every length is held against what is there.

use anyhow::{Context, Result, bail, ensure};

use crate::plan::systemd::variant::{Variant, split_type};

/// Both sides are on this machine.
pub const ENDIANNESS: u8 = if cfg!(target_endian = "little") { b'l' } else { b'B' };

/// How deep containers may nest in what arrives.
const DEEPEST: usize = 32;

fn alignment(signature: &str) -> usize {
    match signature.as_bytes().first() {
        Some(b'n' | b'q') => 2,
        Some(b'b' | b'i' | b'u' | b's' | b'o' | b'a') => 4,
        Some(b'x' | b't' | b'd' | b'(') => 8,
        _ => 1,
    }
}

pub fn align(bytes: &mut Vec<u8>, alignment: usize) {
    bytes.resize(bytes.len().next_multiple_of(alignment), 0);
}

pub fn write(bytes: &mut Vec<u8>, value: &Variant) {
    align(bytes, alignment(&value.signature()));
    match value {
        Variant::Byte(number) => bytes.push(*number),
        Variant::Bool(value) => bytes.extend(u32::from(*value).to_ne_bytes()),
        Variant::Int16(number) => bytes.extend(number.to_ne_bytes()),
        Variant::Uint16(number) => bytes.extend(number.to_ne_bytes()),
        Variant::Int32(number) => bytes.extend(number.to_ne_bytes()),
        Variant::Uint32(number) => bytes.extend(number.to_ne_bytes()),
        Variant::Int64(number) => bytes.extend(number.to_ne_bytes()),
        Variant::Uint64(number) => bytes.extend(number.to_ne_bytes()),
        Variant::Double(number) => bytes.extend(number.to_ne_bytes()),
        Variant::Text(text) | Variant::Path(text) => {
            bytes.extend((text.len() as u32).to_ne_bytes());
            bytes.extend(text.as_bytes());
            bytes.push(0);
        }
        Variant::Signature(text) => write_signature(bytes, text),
        Variant::Array(element, values) => {
            let place = bytes.len();
            bytes.extend([0; 4]);
            align(bytes, alignment(element));
            let start = bytes.len();
            values.iter().for_each(|value| write(bytes, value));
            let length = (bytes.len() - start) as u32;
            bytes[place..place + 4].copy_from_slice(&length.to_ne_bytes());
        }
        Variant::Struct(members) => members.iter().for_each(|member| write(bytes, member)),
        Variant::Boxed(value) => {
            write_signature(bytes, &value.signature());
            write(bytes, value);
        }
    }
}

fn write_signature(bytes: &mut Vec<u8>, signature: &str) {
    bytes.push(signature.len() as u8);
    bytes.extend(signature.as_bytes());
    bytes.push(0);
}

/// Reads values one after the other; alignment counts from the beginning of `bytes`.
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    /// All values of a signature.
    pub fn values(&mut self, mut signature: &str) -> Result<Vec<Variant>> {
        let mut values = Vec::new();
        while !signature.is_empty() {
            let (first, rest) = split_type(signature)?;
            values.push(self.value(first, DEEPEST)?);
            signature = rest;
        }
        Ok(values)
    }

    fn value(&mut self, signature: &str, depth: usize) -> Result<Variant> {
        ensure!(depth > 0, "it nests too deep");
        self.align(alignment(signature));
        Ok(match signature.as_bytes().first() {
            Some(b'y') => Variant::Byte(self.take::<1>()?[0]),
            Some(b'b') => Variant::Bool(self.length()? != 0),
            Some(b'n') => Variant::Int16(i16::from_ne_bytes(self.take()?)),
            Some(b'q') => Variant::Uint16(u16::from_ne_bytes(self.take()?)),
            Some(b'i') => Variant::Int32(i32::from_ne_bytes(self.take()?)),
            Some(b'u') => Variant::Uint32(u32::from_ne_bytes(self.take()?)),
            Some(b'x') => Variant::Int64(i64::from_ne_bytes(self.take()?)),
            Some(b't') => Variant::Uint64(u64::from_ne_bytes(self.take()?)),
            Some(b'd') => Variant::Double(f64::from_ne_bytes(self.take()?)),
            Some(b's') => Variant::Text(self.text()?),
            Some(b'o') => Variant::Path(self.text()?),
            Some(b'g') => Variant::Signature(self.signature()?),
            Some(b'v') => {
                let inner = self.signature()?;
                ensure!(split_type(&inner)?.1.is_empty(), "{inner:?} is more than one type");
                Variant::Boxed(Box::new(self.value(&inner, depth - 1)?))
            }
            Some(b'a') => {
                let element = &signature[1..];
                let length = self.length()?;
                self.align(alignment(element));
                let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
                let end = end.context("an array is cut off")?;
                let mut values = Vec::new();
                while self.at < end {
                    values.push(self.value(element, depth - 1)?);
                }
                ensure!(self.at == end, "an array ends within an element");
                Variant::Array(element.to_string(), values)
            }
            Some(b'(') => {
                let mut rest = &signature[1..signature.len() - 1];
                let mut members = Vec::new();
                while !rest.is_empty() {
                    let (first, next) = split_type(rest)?;
                    members.push(self.value(first, depth - 1)?);
                    rest = next;
                }
                Variant::Struct(members)
            }
            _ => bail!("{signature:?} is not a signature"),
        })
    }

    fn align(&mut self, alignment: usize) {
        self.at = self.at.next_multiple_of(alignment);
    }

    fn slice(&mut self, length: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(length).context("a length is too large")?;
        let slice = self.bytes.get(self.at..end).context("a value is cut off")?;
        self.at = end;
        Ok(slice)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.slice(N)?.try_into()?)
    }

    fn length(&mut self) -> Result<usize> {
        Ok(u32::from_ne_bytes(self.take()?) as usize)
    }

    fn text(&mut self) -> Result<String> {
        let length = self.length()?;
        self.string(length)
    }

    fn signature(&mut self) -> Result<String> {
        let length = self.take::<1>()?[0].into();
        self.string(length)
    }

    fn string(&mut self, length: usize) -> Result<String> {
        let text = std::str::from_utf8(self.slice(length)?)?.to_string();
        ensure!(self.take::<1>()? == [0], "a string has no end");
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let values = [
            "byte 1",
            "true",
            "int16 -2",
            "uint16 3",
            "-4",
            "uint32 5",
            "int64 -6",
            "uint64 7",
            "1.5",
            "'x'",
            "objectpath '/a'",
            "signature 'a(sv)'",
            "['a', 'bcd']",
            "@as []",
            "[(byte 1, uint64 2)]",
            "<<'x'>>",
            "[('DeviceAllow', <[('/dev/null', 'rwm')]>), ('PIDs', <[uint32 9]>)]",
            "@a(sa(sv)) []",
        ];
        // At every offset: padding depends on it.
        for offset in 0..8 {
            let mut bytes = vec![0; offset];
            let values: Vec<Variant> = values.iter().map(|text| Variant::parse(text).unwrap()).collect();
            values.iter().for_each(|value| write(&mut bytes, value));
            let signature: String = values.iter().map(Variant::signature).collect();
            let mut reader = Reader { bytes: &bytes, at: offset };
            assert_eq!(reader.values(&signature).unwrap(), values);
            for end in offset..bytes.len() {
                // Cut off anywhere it is an error, and no more than that.
                Reader { bytes: &bytes[..end], at: offset }.values(&signature).unwrap_err();
            }
        }
    }

    #[test]
    fn bytes_are_as_the_specification_has_them() {
        let mut bytes = Vec::new();
        write(&mut bytes, &Variant::Byte(9));
        write(&mut bytes, &Variant::text("foo"));
        write(&mut bytes, &Variant::Array("t".into(), vec![Variant::Uint64(5)]));
        let little = b"\x09\0\0\0\x03\0\0\0foo\0\x08\0\0\0\x05\0\0\0\0\0\0\0";
        if cfg!(target_endian = "little") {
            assert_eq!(bytes, little);
        }
    }

    #[test]
    fn a_lying_length_is_an_error() {
        let huge = u32::MAX.to_ne_bytes();
        for signature in ["s", "ay", "a(sv)", "o"] {
            Reader::new(&huge).values(signature).unwrap_err();
        }
        Reader::new(b"\x02\0\0\0\xff\xff\0").values("s").unwrap_err();
        let error = Reader::new(&b"\x01v\0".repeat(64)).values("v").unwrap_err();
        assert_eq!(error.to_string(), "it nests too deep");
    }
}
