//! Receipts: what a gateway signs when a job is finished.
//!
//! A [`Statement`] says what was transferred; a [`SignedReceipt`] is its bytes, the gateway's Ed25519 public key and the
//! signature over [`signed_bytes`]. The statement stays as the bytes that were signed, so that a receipt of a later
//! version can be kept and verified by one who cannot read all of it. Making and checking signatures is not done
//! here, nor is deciding whether a public key is the gateway's: whoever verifies compares it with the key that they
//! know.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::id::{Digest, JobKey};
use crate::limits::TEXT_MAX;
use crate::manifest::RECORD_PATH_MAX;
use crate::wire::varint;

/// Longest encoded receipt, in bytes.
pub const RECEIPT_MAX: usize = 32 * 1024;

/// What stands in front of a statement when it is signed, so that the signature can be taken for nothing else.
pub const RECEIPT_CONTEXT: &[u8] = b"Metra MTP v1 receipt\0";

/// The bytes that the signature of a receipt is over.
pub fn signed_bytes(statement: &[u8]) -> Vec<u8> {
    [RECEIPT_CONTEXT, statement].concat()
}

/// Which way a job went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// To the gateway.
    Push,
    /// From the gateway.
    Pull,
}

/// What a gateway states about a finished job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The gateway's name, at most [`TEXT_MAX`] bytes.
    pub gateway: String,
    /// The name that the client was known by, at most [`TEXT_MAX`] bytes.
    pub user: String,
    /// The job.
    pub key: JobKey,
    /// Which way it went.
    pub direction: Direction,
    /// The destination of a push, the first source of a pull; relative to the gateway's root.
    pub path: String,
    /// The root of the manifest.
    pub root: Digest,
    /// Records of the manifest.
    pub records: u64,
    /// Entries of the manifest, the withdrawn among them.
    pub entries: u64,
    /// Chunks of the manifest.
    pub chunks: u64,
    /// Bytes of the entries that are not withdrawn.
    pub bytes: u64,
    /// Entries that did not get their final names: refused, or withdrawn.
    pub failed: u64,
    /// Entries that the source withdrew.
    pub withdrawn: u64,
    /// When the job was opened, in milliseconds since 1970-01-01 UTC.
    pub started: u64,
    /// When the last name was final, in milliseconds since 1970-01-01 UTC.
    pub finished: u64,
}

/// A statement and the signature over it.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedReceipt {
    /// An encoded [`Statement`].
    pub statement: Vec<u8>,
    /// The Ed25519 public key of the gateway.
    pub public_key: [u8; 32],
    /// The Ed25519 signature (RFC 8032) over [`signed_bytes`].
    pub signature: [u8; 64],
}

/// Why bytes or text are not a receipt. Fault: whoever made them, or what happened to them on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// It ends early, goes on after its end, or is not in the one form that is allowed.
    #[error("the receipt is damaged")]
    Malformed,
    /// It is longer than any receipt.
    #[error("the receipt is longer than any receipt can be")]
    TooLong,
    /// The statement is of a version that is not known here.
    #[error("the receipt is of version {0}; only version 1 is known here")]
    Version(u64),
    /// The text has no line that a receipt starts with, or none that ends it.
    #[error("the text contains no receipt (\"{BEGIN}\" to \"{END}\")")]
    NoArmour,
}

impl Statement {
    /// The version of the encoding.
    pub const VERSION: u64 = 1;

    /// The encoding, of which there is exactly one.
    ///
    /// # Panics
    /// If a number is larger than [`varint::MAX`].
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        varint::put(Self::VERSION, &mut out);
        put_bytes(self.gateway.as_bytes(), &mut out);
        put_bytes(self.user.as_bytes(), &mut out);
        out.extend_from_slice(&self.key.0.0);
        out.push(match self.direction {
            Direction::Push => 0,
            Direction::Pull => 1,
        });
        put_bytes(self.path.as_bytes(), &mut out);
        out.extend_from_slice(&self.root.0);
        let counts = [self.records, self.entries, self.chunks, self.bytes, self.failed, self.withdrawn];
        counts.into_iter().chain([self.started, self.finished]).for_each(|n| varint::put(n, &mut out));
        out
    }

    /// Reads an encoded statement.
    pub fn decode(bytes: &[u8]) -> Result<Self, ReceiptError> {
        if bytes.len() > RECEIPT_MAX {
            return Err(ReceiptError::TooLong);
        }
        let mut reader = Reader(bytes);
        let version = reader.number()?;
        if version != Self::VERSION {
            return Err(ReceiptError::Version(version));
        }
        let statement = Self {
            gateway: reader.text(TEXT_MAX)?,
            user: reader.text(TEXT_MAX)?,
            key: JobKey(Digest(reader.array()?)),
            direction: match reader.array()? {
                [0] => Direction::Push,
                [1] => Direction::Pull,
                _ => return Err(ReceiptError::Malformed),
            },
            path: reader.text(RECORD_PATH_MAX)?,
            root: Digest(reader.array()?),
            records: reader.number()?,
            entries: reader.number()?,
            chunks: reader.number()?,
            bytes: reader.number()?,
            failed: reader.number()?,
            withdrawn: reader.number()?,
            started: reader.number()?,
            finished: reader.number()?,
        };
        reader.end()?;
        Ok(statement)
    }
}

impl SignedReceipt {
    /// The encoding: the length of the statement, the statement, the key, the signature.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.statement.len() + 104);
        put_bytes(&self.statement, &mut out);
        out.extend_from_slice(&self.public_key);
        out.extend_from_slice(&self.signature);
        out
    }

    /// Reads an encoded receipt. Neither the signature nor the statement is looked at.
    pub fn decode(bytes: &[u8]) -> Result<Self, ReceiptError> {
        if bytes.len() > RECEIPT_MAX {
            return Err(ReceiptError::TooLong);
        }
        let mut reader = Reader(bytes);
        let statement = reader.bytes(RECEIPT_MAX)?.to_vec();
        let receipt = Self { statement, public_key: reader.array()?, signature: reader.array()? };
        reader.end()?;
        Ok(receipt)
    }

    /// The encoding as text: base64 (RFC 4648, section 4) between two lines, as in RFC 7468.
    pub fn to_text(&self) -> String {
        let base64 = STANDARD.encode(self.encode());
        let mut text = format!("{BEGIN}\n");
        let mut rest = base64.as_str();
        while !rest.is_empty() {
            // Base64 is ASCII: every place is a boundary.
            let (line, more) = rest.split_at(rest.len().min(LINE));
            text.push_str(line);
            text.push('\n');
            rest = more;
        }
        text + END + "\n"
    }

    /// The first receipt in a text; what stands before and after it does not matter, nor do spaces and line ends.
    pub fn from_text(text: &str) -> Result<Self, ReceiptError> {
        let (_, after) = text.split_once(BEGIN).ok_or(ReceiptError::NoArmour)?;
        let (body, _) = after.split_once(END).ok_or(ReceiptError::NoArmour)?;
        let base64: Vec<u8> =
            body.bytes().filter(|b| !b.is_ascii_whitespace()).take(2 * RECEIPT_MAX).collect();
        Self::decode(&STANDARD.decode(base64).map_err(|_| ReceiptError::Malformed)?)
    }
}

impl std::fmt::Debug for SignedReceipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignedReceipt")
            .field("statement", &Statement::decode(&self.statement))
            .finish_non_exhaustive()
    }
}

/// What is left of the bytes. Numbers are taken in their shortest form only, because the bytes are signed.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn number(&mut self) -> Result<u64, ReceiptError> {
        varint::take_shortest(&mut self.0).ok_or(ReceiptError::Malformed)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ReceiptError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(ReceiptError::Malformed)?;
        self.0 = rest;
        Ok(*array)
    }

    fn bytes(&mut self, max: usize) -> Result<&'a [u8], ReceiptError> {
        let len = self.number()?;
        if len > max as u64 {
            return Err(ReceiptError::TooLong);
        }
        let (bytes, rest) = self.0.split_at_checked(len as usize).ok_or(ReceiptError::Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn text(&mut self, max: usize) -> Result<String, ReceiptError> {
        std::str::from_utf8(self.bytes(max)?).map(str::to_owned).map_err(|_| ReceiptError::Malformed)
    }

    fn end(&self) -> Result<(), ReceiptError> {
        if self.0.is_empty() { Ok(()) } else { Err(ReceiptError::Malformed) }
    }
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    varint::put(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

const BEGIN: &str = "-----BEGIN METRA RECEIPT-----";
const END: &str = "-----END METRA RECEIPT-----";

/// Characters of base64 in a line, as RFC 7468 asks.
const LINE: usize = 64;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn any_statement() -> impl Strategy<Value = Statement> {
        let names = (".{0,20}", ".{0,20}", ".{0,40}", any::<bool>());
        (names, any::<[u8; 32]>(), any::<[u8; 32]>(), prop::array::uniform8(0..=varint::MAX)).prop_map(
            |((gateway, user, path, pull), key, root, n)| Statement {
                gateway,
                user,
                key: JobKey(Digest(key)),
                direction: if pull { Direction::Pull } else { Direction::Push },
                path,
                root: Digest(root),
                records: n[0],
                entries: n[1],
                chunks: n[2],
                bytes: n[3],
                failed: n[4],
                withdrawn: n[5],
                started: n[6],
                finished: n[7],
            },
        )
    }

    fn receipt(statement: Vec<u8>) -> SignedReceipt {
        SignedReceipt { statement, public_key: [7; 32], signature: [9; 64] }
    }

    fn longest() -> Statement {
        Statement {
            gateway: "g".repeat(TEXT_MAX),
            user: "u".repeat(TEXT_MAX),
            key: JobKey(Digest::default()),
            direction: Direction::Pull,
            path: "p".repeat(RECORD_PATH_MAX),
            root: Digest::default(),
            records: varint::MAX,
            entries: varint::MAX,
            chunks: varint::MAX,
            bytes: varint::MAX,
            failed: varint::MAX,
            withdrawn: varint::MAX,
            started: varint::MAX,
            finished: varint::MAX,
        }
    }

    #[test]
    fn lengths_on_both_sides() {
        let whole = receipt(longest().encode());
        assert!(whole.encode().len() <= RECEIPT_MAX);
        assert_eq!(SignedReceipt::from_text(&whole.to_text()), Ok(whole.clone()));
        assert_eq!(Statement::decode(&whole.statement), Ok(longest()));
        let fields: [fn(&mut Statement) -> &mut String; 3] =
            [|s| &mut s.gateway, |s| &mut s.user, |s| &mut s.path];
        for field in fields {
            let mut statement = longest();
            field(&mut statement).push('x');
            assert_eq!(Statement::decode(&statement.encode()), Err(ReceiptError::TooLong));
        }
        let text = receipt(vec![0; RECEIPT_MAX]).to_text();
        assert_eq!(SignedReceipt::from_text(&text), Err(ReceiptError::TooLong));
        assert_eq!(Statement::decode(&[0; RECEIPT_MAX + 1]), Err(ReceiptError::TooLong));
    }

    #[test]
    fn refuses_other_forms() {
        let statement = Statement { path: "p".into(), ..longest() }.encode();
        let mut other = statement.clone();
        other[0] = 2;
        assert_eq!(Statement::decode(&other), Err(ReceiptError::Version(2)));
        let longer_form = [&[0x40, 1], &statement[1..]].concat();
        assert_eq!(Statement::decode(&longer_form), Err(ReceiptError::Malformed));
        let direction = 1 + 2 * (2 + TEXT_MAX) + 32;
        let mut other = statement.clone();
        assert_eq!(other[direction], 1);
        other[direction] = 2;
        assert_eq!(Statement::decode(&other), Err(ReceiptError::Malformed));
    }

    #[test]
    fn finds_the_receipt_in_a_text() {
        let receipt = receipt(longest().encode());
        let text = format!("Dear all,\r\n> {}\nregards", receipt.to_text().replace('\n', "\r\n  "));
        assert_eq!(SignedReceipt::from_text(&text), Ok(receipt.clone()));
        assert!(receipt.to_text().lines().all(|line| line.len() <= LINE));
        let text = receipt.to_text();
        assert_eq!(SignedReceipt::from_text(&text.replace(END, "")), Err(ReceiptError::NoArmour));
        assert_eq!(SignedReceipt::from_text(""), Err(ReceiptError::NoArmour));
        assert_eq!(SignedReceipt::from_text(&text.replacen('A', "!", 1)), Err(ReceiptError::NoArmour));
        let damaged = text.replacen("\nRA", "\n!!", 1).replacen('Z', "!", 1);
        assert_eq!(SignedReceipt::from_text(&damaged), Err(ReceiptError::Malformed));
    }

    #[test]
    fn what_is_signed_starts_with_the_context() {
        assert_eq!(signed_bytes(b"abc"), b"Metra MTP v1 receipt\0abc");
    }

    proptest! {
        #[test]
        fn round_trip(statement in any_statement()) {
            let bytes = statement.encode();
            prop_assert_eq!(Statement::decode(&bytes), Ok(statement));
            for cut in 0..bytes.len() {
                prop_assert!(Statement::decode(&bytes[..cut]).is_err());
            }
            let receipt = receipt(bytes);
            let encoded = receipt.encode();
            prop_assert_eq!(SignedReceipt::decode(&encoded), Ok(receipt.clone()));
            prop_assert!(SignedReceipt::decode(&[&encoded[..], &[0]].concat()).is_err());
            prop_assert!(SignedReceipt::decode(&encoded[..encoded.len() - 1]).is_err());
            prop_assert_eq!(SignedReceipt::from_text(&receipt.to_text()), Ok(receipt));
        }

        #[test]
        fn one_encoding_each(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(receipt) = SignedReceipt::decode(&bytes) {
                prop_assert_eq!(receipt.encode(), bytes);
            }
        }
    }
}
