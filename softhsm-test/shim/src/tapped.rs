//! The records of the file `tap`: what passed between the caller and the token.
//!
//! Leaves the listening to the module; this is the file's format, the same on both sides. A record that is not
//! complete yet ends the reading.

use std::fmt;

/// Which way a byte string went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the token to the caller.
    Out,
    /// From the caller into the token, as key material.
    In,
}

/// One byte string that passed.
#[derive(Clone, PartialEq, Eq)]
pub struct Tapped {
    /// The function, as `C_Sign`.
    pub function: String,
    /// The mechanism, as `CKM_ECDSA`, and which part where it is one of several: `client IV` or `server IV` of a
    /// key block, `data` or `salt` of a derivation. For attributes `CKA_VALUE` as given by a template, and
    /// `CKA_VALUE of CKO_DATA` as read from an object of that class. A number where no name is known, empty where
    /// there is nothing.
    pub detail: String,
    /// Which way it went.
    pub direction: Direction,
    /// The bytes as the caller got or gave them.
    pub bytes: Vec<u8>,
}

impl Tapped {
    /// Whether the token gave it.
    pub fn came_out(&self) -> bool {
        self.direction == Direction::Out
    }

    /// The record: its length without these four bytes, the direction, both texts with their lengths, the bytes.
    /// Lengths are little-endian.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = vec![u8::from(self.direction == Direction::In)];
        for text in [&self.function, &self.detail] {
            body.extend((text.len() as u32).to_le_bytes());
            body.extend(text.as_bytes());
        }
        body.extend(&self.bytes);
        let mut record = (body.len() as u32).to_le_bytes().to_vec();
        record.extend(body);
        record
    }

    /// Every complete record of the file.
    pub fn decode_all(mut file: &[u8]) -> Vec<Tapped> {
        let mut records = Vec::new();
        while let Some(record) = sized(&mut file).and_then(decode) {
            records.push(record);
        }
        records
    }
}

impl fmt::Debug for Tapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (function, detail) = (&self.function, &self.detail);
        write!(f, "{:?} {function} {detail}: ", self.direction)?;
        self.bytes
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn decode(mut body: &[u8]) -> Option<Tapped> {
    let (direction, rest) = body.split_first()?;
    body = rest;
    let mut text = || sized(&mut body).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    Some(Tapped {
        function: text()?,
        detail: text()?,
        direction: if *direction == 1 {
            Direction::In
        } else {
            Direction::Out
        },
        bytes: body.to_vec(),
    })
}

fn sized<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = from.split_first_chunk::<4>()?;
    let (bytes, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    *from = rest;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_complete() {
        let record = |direction, bytes: &[u8]| Tapped {
            function: "C_Sign".to_owned(),
            detail: "CKM_ECDSA".to_owned(),
            direction,
            bytes: bytes.to_vec(),
        };
        let written = [record(Direction::Out, &[1, 2]), record(Direction::In, &[])];
        let mut file: Vec<u8> = written.iter().flat_map(Tapped::encode).collect();
        assert_eq!(Tapped::decode_all(&file), written);
        file.pop();
        assert_eq!(Tapped::decode_all(&file), written[..1]);
        assert_eq!(format!("{:?}", written[0]), "Out C_Sign CKM_ECDSA: 0102");
    }
}
