//! Reads a TLS 1.3 client's Finished with the handshake key (RFC 8446, section 4.4.4).
//!
//! Only gets the verify_data out of its records; whether it is right is not decided here, nor by any comparison:
//! opening the Finished-lock with it is the check. Tolerates what the standard tells a server to tolerate
//! (compatibility ChangeCipherSpec, refused early data, padding, fragments) and nothing beyond.

use zeroize::{Zeroize as _, Zeroizing};

use super::{FlightError, Refused, Tolerance, plain_alert_description};
use crate::record::{Bound, HEADER_LEN, ReadKey, RecordError, content_type, next_record};

const FINISHED: u8 = 20;
const MESSAGE_HEADER_LEN: usize = 4;

/// The client's verify_data: what opens the Finished-lock.
pub struct VerifyData(Zeroizing<Vec<u8>>);

impl VerifyData {
    /// The bytes themselves.
    pub fn expose_secret(&self) -> &[u8] {
        &self.0
    }
}

/// What reading has come to.
pub enum FinishedStep {
    /// Bytes are missing.
    More {
        /// How many bytes of the buffer are done with.
        consumed: usize,
    },
    /// The Finished is complete, at a record boundary.
    Done {
        /// How many bytes of the buffer are done with.
        consumed: usize,
        /// What it says.
        verify_data: VerifyData,
    },
}

/// Reads one Finished.
pub struct FinishedReader {
    key: ReadKey,
    verify_data_len: usize,
    message: Zeroizing<Vec<u8>>,
    is_protected: bool,
}

impl FinishedReader {
    /// Reads with the client's handshake key a Finished of `verify_data_len` bytes.
    pub fn new(key: ReadKey, verify_data_len: u8) -> Self {
        let verify_data_len = usize::from(verify_data_len);
        Self {
            key,
            verify_data_len,
            message: Zeroizing::new(Vec::with_capacity(MESSAGE_HEADER_LEN + verify_data_len)),
            is_protected: false,
        }
    }

    /// Uses up the whole records at the start of the buffer, up to the end of the Finished.
    pub fn read(
        &mut self,
        buffer: &mut [u8],
        tolerance: &mut Tolerance,
    ) -> Result<FinishedStep, FlightError> {
        let mut consumed = 0;
        while let Some(record) = next_record(&buffer[consumed..], Bound::Tls13)? {
            let bytes = &mut buffer[consumed..consumed + record.len];
            consumed += record.len;
            match record.content_type {
                content_type::CHANGE_CIPHER_SPEC if !self.is_protected => {
                    tolerance.compat_ccs(&bytes[HEADER_LEN..])?;
                }
                // A client that does not like the certificate has no keys yet, or does not use them.
                content_type::ALERT if !self.is_protected => {
                    let description = plain_alert_description(&bytes[HEADER_LEN..])?;
                    return Err(FlightError::ClientAlert(description));
                }
                content_type::APPLICATION_DATA => self.open(bytes, tolerance)?,
                _ => {
                    return Err(
                        Refused::unexpected("an unprotected record in place of Finished").into(),
                    );
                }
            }
            if let Some(verify_data) = self.complete() {
                return Ok(FinishedStep::Done {
                    consumed,
                    verify_data,
                });
            }
        }
        Ok(FinishedStep::More { consumed })
    }

    fn open(&mut self, record: &mut [u8], tolerance: &mut Tolerance) -> Result<(), FlightError> {
        let opened = match self.key.open(record) {
            // Early data was protected under a key that nobody here has (RFC 8446, section 4.2.10).
            Err(RecordError::Mac) if !self.is_protected && tolerance.skip(record.len()) => {
                return Ok(());
            }
            opened => opened?,
        };
        self.is_protected = true;
        let content = &record[opened.plaintext];
        let taken = match opened.content_type {
            content_type::HANDSHAKE => self.append(content).map_err(FlightError::from),
            content_type::ALERT => Err(match plain_alert_description(content) {
                Ok(description) => FlightError::ClientAlert(description),
                Err(refused) => refused.into(),
            }),
            _ => Err(Refused::unexpected("other content in place of Finished").into()),
        };
        // The receive buffer lives on; with the verify_data in it the lock could be opened again.
        record.zeroize();
        taken
    }

    fn append(&mut self, fragment: &[u8]) -> Result<(), Refused> {
        if fragment.is_empty() {
            return Err(Refused::unexpected("an empty handshake record"));
        }
        // Looks at no more than one byte past the message, so that the buffer never grows beyond its capacity.
        let wanted = MESSAGE_HEADER_LEN + self.verify_data_len - self.message.len();
        let (taken, beyond) = fragment.split_at(wanted.min(fragment.len()));
        self.message.extend_from_slice(taken);
        if self.message[0] != FINISHED {
            return Err(Refused::unexpected(
                "a handshake message that is no Finished",
            ));
        }
        if let Some(&[_, a, b, c]) = self.message.first_chunk()
            && u32::from_be_bytes([0, a, b, c]) as usize != self.verify_data_len
        {
            return Err(Refused::malformed("a Finished of the wrong length"));
        }
        if !beyond.is_empty() {
            return Err(Refused::unexpected(
                "bytes after the Finished in its record",
            ));
        }
        Ok(())
    }

    fn complete(&mut self) -> Option<VerifyData> {
        let len = MESSAGE_HEADER_LEN + self.verify_data_len;
        (self.message.len() == len)
            .then(|| VerifyData(Zeroizing::new(self.message[MESSAGE_HEADER_LEN..].to_vec())))
    }
}

#[cfg(test)]
#[path = "finished_tests.rs"]
mod tests;
