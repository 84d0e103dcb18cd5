//! Values of D-Bus, and the text in which annotations write them: GVariant's (`uint64 5`, `['a', 'b']`).
//!
//! Pure. `host/bus/marshal.rs` turns them into bytes and back.

use std::fmt;

use anyhow::{Context, Result, bail, ensure};

#[derive(Clone, Debug, PartialEq)]
pub enum Variant {
    Byte(u8),
    Bool(bool),
    Int16(i16),
    Uint16(u16),
    Int32(i32),
    Uint32(u32),
    Int64(i64),
    Uint64(u64),
    Double(f64),
    Text(String),
    Path(String),
    Signature(String),
    /// The signature of an element, and the elements.
    Array(String, Vec<Variant>),
    Struct(Vec<Variant>),
    /// A value that carries its type.
    Boxed(Box<Variant>),
}

/// The words that name a type in the text, and the letters of signatures.
const TYPES: &[(&str, &str)] = &[
    ("byte", "y"),
    ("boolean", "b"),
    ("int16", "n"),
    ("uint16", "q"),
    ("int32", "i"),
    ("uint32", "u"),
    ("int64", "x"),
    ("uint64", "t"),
    ("double", "d"),
    ("string", "s"),
    ("objectpath", "o"),
    ("signature", "g"),
];

/// How deep containers may nest; the bus itself draws the line at 32.
const DEEPEST: usize = 16;

impl Variant {
    pub fn text(text: impl Into<String>) -> Variant {
        Variant::Text(text.into())
    }

    pub fn signature(&self) -> String {
        let letter = match self {
            Variant::Byte(_) => "y",
            Variant::Bool(_) => "b",
            Variant::Int16(_) => "n",
            Variant::Uint16(_) => "q",
            Variant::Int32(_) => "i",
            Variant::Uint32(_) => "u",
            Variant::Int64(_) => "x",
            Variant::Uint64(_) => "t",
            Variant::Double(_) => "d",
            Variant::Text(_) => "s",
            Variant::Path(_) => "o",
            Variant::Signature(_) => "g",
            Variant::Boxed(_) => "v",
            Variant::Array(element, _) => return format!("a{element}"),
            Variant::Struct(members) => {
                return format!("({})", members.iter().map(Variant::signature).collect::<String>());
            }
        };
        letter.to_string()
    }

    /// Read a value as an annotation writes it. Of dictionaries and maybe types there are none among the properties
    /// of units that a container can have.
    pub fn parse(text: &str) -> Result<Variant> {
        let mut reader = Reader { rest: text.trim_start() };
        let value =
            reader.value(None, DEEPEST).with_context(|| format!("{text:?} is not a GVariant text"))?;
        ensure!(reader.rest.is_empty(), "{text:?} is not a GVariant text: {:?} is left over", reader.rest);
        Ok(value)
    }

    /// A number of the type that a signature's letter names.
    fn number(letter: &str, word: &str) -> Result<Variant> {
        let (negative, digits) = match word.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, word.strip_prefix('+').unwrap_or(word)),
        };
        let (digits, radix) = match digits.strip_prefix("0x") {
            Some(digits) => (digits, 16),
            None => (digits, 10),
        };
        if letter == "d" {
            return word.parse().map(Variant::Double).with_context(|| format!("{word:?} is not a number"));
        }
        ensure!(digits.starts_with(|first: char| first.is_digit(radix)), "{word:?} is not a number");
        let number =
            i128::from_str_radix(digits, radix).with_context(|| format!("{word:?} is not a number"))?;
        let number = if negative { -number } else { number };
        let value = match letter {
            "y" => u8::try_from(number).map(Variant::Byte),
            "n" => i16::try_from(number).map(Variant::Int16),
            "q" => u16::try_from(number).map(Variant::Uint16),
            "i" => i32::try_from(number).map(Variant::Int32),
            "u" => u32::try_from(number).map(Variant::Uint32),
            "x" => i64::try_from(number).map(Variant::Int64),
            "t" => u64::try_from(number).map(Variant::Uint64),
            _ => bail!("{word} is a number, where a value of type {letter:?} belongs"),
        };
        value.with_context(|| format!("{word} does not fit into its type"))
    }
}

/// The first complete type of a signature, and the rest.
pub fn split_type(signature: &str) -> Result<(&str, &str)> {
    let broken = || format!("{signature:?} is not a signature");
    let end = match signature.chars().next().with_context(broken)? {
        'a' => 1 + split_type(&signature[1..])?.0.len(),
        '(' => {
            let mut rest = &signature[1..];
            while !rest.starts_with(')') {
                rest = split_type(rest)?.1;
            }
            signature.len() - rest.len() + 1
        }
        letter if letter == 'v' || TYPES.iter().any(|(_, known)| known.starts_with(letter)) => 1,
        _ => bail!(broken()),
    };
    Ok(signature.split_at(end))
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn take(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest.trim_start();
                true
            }
            None => false,
        }
    }

    /// Letters, digits and signs, as numbers and keywords have them.
    fn word(&mut self) -> &'a str {
        let ends = |letter: char| !(letter.is_ascii_alphanumeric() || "+-._".contains(letter));
        let (word, rest) = self.rest.split_at(self.rest.find(ends).unwrap_or(self.rest.len()));
        self.rest = rest.trim_start();
        word
    }

    /// `wanted` is the type that is known from before.
    fn value(&mut self, wanted: Option<&str>, depth: usize) -> Result<Variant> {
        ensure!(depth > 0, "it nests too deep");
        let fits = |value: Variant| match wanted {
            Some(wanted) if value.signature() != wanted => bail!("{value} is not of type {wanted:?}"),
            _ => Ok(value),
        };
        match self.rest.chars().next().context("a value is missing")? {
            '\'' | '"' => {
                let text = self.quoted()?;
                match wanted {
                    Some("o") => Ok(Variant::Path(text)),
                    Some("g") => Ok(Variant::Signature(text)),
                    _ => fits(Variant::Text(text)),
                }
            }
            '[' => {
                let element = match wanted {
                    Some(array) => {
                        Some(array.strip_prefix('a').with_context(|| format!("a list is not {array:?}"))?)
                    }
                    None => None,
                };
                self.array(element, depth)
            }
            '(' => fits(self.tuple(depth)?),
            '<' => {
                self.take("<");
                let value = self.value(None, depth - 1)?;
                ensure!(self.take(">"), "a \"<\" is not closed");
                fits(Variant::Boxed(Box::new(value)))
            }
            '@' => {
                let end = self.rest.find(char::is_whitespace).context("a type without a value")?;
                let signature = &self.rest[1..end];
                ensure!(split_type(signature)?.1.is_empty(), "{signature:?} is more than one type");
                self.rest = self.rest[end..].trim_start();
                fits(self.value(Some(signature), depth - 1)?)
            }
            _ => match self.word() {
                "" => bail!("{:?} does not begin a value", self.rest),
                "true" => fits(Variant::Bool(true)),
                "false" => fits(Variant::Bool(false)),
                word => match TYPES.iter().find(|(name, _)| *name == word) {
                    Some((_, letter)) => fits(self.value(Some(letter), depth - 1)?),
                    None if wanted.is_none() && word.contains('.') => Variant::number("d", word),
                    None => Variant::number(wanted.unwrap_or("i"), word),
                },
            },
        }
    }

    fn array(&mut self, element: Option<&str>, depth: usize) -> Result<Variant> {
        self.take("[");
        let mut element = element.map(str::to_string);
        let mut elements = Vec::new();
        while !self.take("]") {
            ensure!(elements.is_empty() || self.take(","), "a \"[\" is not closed");
            let value = self.value(element.as_deref(), depth - 1)?;
            element.get_or_insert_with(|| value.signature());
            elements.push(value);
        }
        let element = element.context("the type of an empty list is not known: write one as \"@as []\"")?;
        Ok(Variant::Array(element, elements))
    }

    fn tuple(&mut self, depth: usize) -> Result<Variant> {
        self.take("(");
        let mut members = Vec::new();
        while !self.take(")") {
            // A tuple of one ends in a comma.
            if !members.is_empty() {
                ensure!(self.take(","), "a \"(\" is not closed");
                if self.take(")") {
                    break;
                }
            }
            members.push(self.value(None, depth - 1)?);
        }
        ensure!(!members.is_empty(), "an empty \"()\" is no value of the bus");
        Ok(Variant::Struct(members))
    }

    fn quoted(&mut self) -> Result<String> {
        let mut letters = self.rest.chars();
        let quote = letters.next();
        let mut text = String::new();
        loop {
            match letters.next().context("a quote is not closed")? {
                letter if Some(letter) == quote => break,
                '\\' => text.push(match letters.next().context("a quote is not closed")? {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    letter @ ('\\' | '\'' | '"') => letter,
                    other => bail!("\"\\{other}\" is not an escape"),
                }),
                letter => text.push(letter),
            }
        }
        ensure!(!text.contains('\0'), "a NUL byte inside a string");
        self.rest = letters.as_str().trim_start();
        Ok(text)
    }
}

/// In GVariant's text, with the types that a reader would not guess.
impl fmt::Display for Variant {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |out: &mut fmt::Formatter<'_>, values: &[Variant]| {
            values.iter().enumerate().try_for_each(|(index, value)| {
                let comma = if index == 0 { "" } else { ", " };
                write!(out, "{comma}{value}")
            })
        };
        match self {
            Variant::Byte(number) => write!(out, "byte {number}"),
            Variant::Bool(value) => write!(out, "{value}"),
            Variant::Int16(number) => write!(out, "int16 {number}"),
            Variant::Uint16(number) => write!(out, "uint16 {number}"),
            Variant::Int32(number) => write!(out, "{number}"),
            Variant::Uint32(number) => write!(out, "uint32 {number}"),
            Variant::Int64(number) => write!(out, "int64 {number}"),
            Variant::Uint64(number) => write!(out, "uint64 {number}"),
            Variant::Double(number) => write!(out, "double {number}"),
            Variant::Text(text) => write!(out, "'{}'", text.escape_default()),
            Variant::Path(text) => write!(out, "objectpath '{}'", text.escape_default()),
            Variant::Signature(text) => write!(out, "signature '{text}'"),
            Variant::Array(element, values) if values.is_empty() => write!(out, "@a{element} []"),
            Variant::Array(_, values) => {
                write!(out, "[")?;
                list(out, values)?;
                write!(out, "]")
            }
            Variant::Struct(members) => {
                write!(out, "(")?;
                list(out, members)?;
                write!(out, "{}", if members.len() == 1 { ",)" } else { ")" })
            }
            Variant::Boxed(value) => write!(out, "<{value}>"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_annotations_say_is_read() {
        let strings = |words: &[&str]| {
            Variant::Array("s".into(), words.iter().map(|word| Variant::text(*word)).collect())
        };
        for (text, expected) in [
            ("'inactive-or-failed'", Variant::text("inactive-or-failed")),
            (r#""it's""#, Variant::text("it's")),
            (r"'a\'b\\'", Variant::text(r"a'b\")),
            ("true", Variant::Bool(true)),
            (" false ", Variant::Bool(false)),
            ("5", Variant::Int32(5)),
            ("-5", Variant::Int32(-5)),
            ("uint64 5", Variant::Uint64(5)),
            ("uint64 0xff", Variant::Uint64(255)),
            ("int64 -5", Variant::Int64(-5)),
            ("byte 7", Variant::Byte(7)),
            ("1.5", Variant::Double(1.5)),
            ("double 3", Variant::Double(3.0)),
            ("objectpath '/a'", Variant::Path("/a".into())),
            ("['a','b']", strings(&["a", "b"])),
            ("@as []", strings(&[])),
            ("[uint32 1, 2]", Variant::Array("u".into(), vec![Variant::Uint32(1), Variant::Uint32(2)])),
            (
                "[('a', 'b')]",
                Variant::Array(
                    "(ss)".into(),
                    vec![Variant::Struct(vec![Variant::text("a"), Variant::text("b")])],
                ),
            ),
            ("(byte 1,)", Variant::Struct(vec![Variant::Byte(1)])),
            ("<'x'>", Variant::Boxed(Box::new(Variant::text("x")))),
        ] {
            let value = Variant::parse(text).unwrap_or_else(|error| panic!("{text}: {error:#}"));
            assert_eq!(value, expected, "{text}");
            assert_eq!(Variant::parse(&value.to_string()).unwrap(), expected, "{value}");
        }
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for (text, reason) in [
            ("", "a value is missing"),
            ("'open", "a quote is not closed"),
            ("byte 256", "256 does not fit into its type"),
            ("uint32 -1", "does not fit"),
            ("99999999999", "does not fit"),
            ("['a', 5]", "5 is a number, where a value of type \"s\" belongs"),
            ("['a'", "not closed"),
            ("[]", "@as []"),
            ("yes", "\"yes\" is not a number"),
            ("'a' 'b'", "left over"),
            ("@as 'x'", "'x' is not of type \"as\""),
            ("@aa []", "is not a signature"),
            ("()", "no value of the bus"),
            ("uint32 'a'", "'a' is not of type \"u\""),
            (&"[".repeat(100), "nests too deep"),
            (&"uint32 ".repeat(100), "nests too deep"),
        ] {
            let error = format!("{:#}", Variant::parse(text).unwrap_err());
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn a_signature_is_split_into_complete_types() {
        for (signature, first, rest) in
            [("sv", "s", "v"), ("a(sv)a(sa(sv))", "a(sv)", "a(sa(sv))"), ("(s(ii))u", "(s(ii))", "u")]
        {
            assert_eq!(split_type(signature).unwrap(), (first, rest));
        }
        for broken in ["", "a", "(s", "z", "é"] {
            split_type(broken).unwrap_err();
        }
    }
}
