//! Passes a TLS 1.3 client's flight on, record by record, when the signer verifies it: Certificate,
//! CertificateVerify, Finished (RFC 8446, section 4.4).
//!
//! The keys for it stay at the signer, so that nobody here sees where it ends; the signer says so, and judges whatever
//! comes, with a sealed alert. Here it is only bounded, and what the standard tolerates before it is passed over.

use super::{FlightError, Refused, Tolerance, plain_alert_description};
use crate::record::{Bound, HEADER_LEN, content_type, next_record};

/// The most records of one flight.
const RECORDS_MAX: usize = 32;
/// The most bytes of one flight, with record headers.
const BYTES_MAX: usize = 64 * 1024;

/// What the record at the start of the buffer is for. All of its bytes are done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlightPart {
    /// Nobody needs it.
    Skipped {
        /// Its length in bytes.
        len: usize,
    },
    /// The signer gets it.
    Passed {
        /// Its length in bytes.
        len: usize,
    },
}

/// Bounds one flight.
#[derive(Debug, Default)]
pub struct ClientFlightReader {
    records: usize,
    bytes: usize,
}

impl ClientFlightReader {
    /// Looks at the start of the buffer: one whole record, or `None` while bytes are missing.
    pub fn read(
        &mut self,
        buffer: &[u8],
        tolerance: &mut Tolerance,
    ) -> Result<Option<FlightPart>, FlightError> {
        let record = next_record(buffer, Bound::Tls13)?;
        self.check_size(buffer)?;
        let Some(record) = record else {
            return Ok(None);
        };
        let (len, fragment) = (record.len, &buffer[HEADER_LEN..record.len]);
        if self.records == 0 {
            match record.content_type {
                content_type::CHANGE_CIPHER_SPEC if tolerance.compat_ccs(fragment).is_ok() => {
                    return Ok(Some(FlightPart::Skipped { len }));
                }
                // A client that does not like the certificate has no keys yet, or does not use them.
                content_type::ALERT => {
                    if let Ok(description) = plain_alert_description(fragment) {
                        return Err(FlightError::ClientAlert(description));
                    }
                }
                _ => {}
            }
        }
        self.records += 1;
        self.bytes += len;
        Ok(Some(FlightPart::Passed { len }))
    }

    /// Refuses on the announced length, before the bytes come.
    fn check_size(&self, buffer: &[u8]) -> Result<(), Refused> {
        let Some(&[_, _, _, high, low]) = buffer.first_chunk() else {
            return Ok(());
        };
        let announced = HEADER_LEN + usize::from(u16::from_be_bytes([high, low]));
        if self.records == RECORDS_MAX {
            return Err(Refused::malformed("a flight in too many records"));
        }
        if self.bytes + announced > BYTES_MAX {
            return Err(Refused::malformed("a flight of too many bytes"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyhaven_types::alert;

    const CHANGE: &[u8] = &[20, 3, 3, 0, 1, 1];

    fn record(content_type: u8, len: usize) -> Vec<u8> {
        let mut record = vec![content_type, 3, 3, (len >> 8) as u8, len as u8];
        record.resize(HEADER_LEN + len, 7);
        record
    }

    /// What becomes of each record of a stream, in turn.
    fn read_all(mut stream: &[u8]) -> Result<Vec<FlightPart>, FlightError> {
        let (mut reader, mut tolerance) = Default::default();
        let mut parts = Vec::new();
        while let Some(part) = ClientFlightReader::read(&mut reader, stream, &mut tolerance)? {
            let (FlightPart::Skipped { len } | FlightPart::Passed { len }) = part;
            stream = &stream[len..];
            parts.push(part);
        }
        Ok(parts)
    }

    fn alert_of(stream: &[u8]) -> Option<u8> {
        match read_all(stream) {
            Err(FlightError::Refused(refused)) => Some(refused.alert),
            _ => None,
        }
    }

    const fn passed(len: usize) -> FlightPart {
        FlightPart::Passed {
            len: HEADER_LEN + len,
        }
    }

    const SKIPPED: FlightPart = FlightPart::Skipped { len: CHANGE.len() };

    #[test]
    fn records_go_on_one_by_one_behind_a_change() {
        let stream = [CHANGE, CHANGE, &record(23, 900), &record(23, 70)].concat();
        let parts = [SKIPPED, SKIPPED, passed(900), passed(70)];
        assert_eq!(read_all(&stream), Ok(parts.to_vec()));
        let first = CHANGE.len();
        for cut in 0..first {
            assert_eq!(read_all(&stream[..cut]), Ok(Vec::new()), "{cut}");
        }
        let cut_short = read_all(&stream[..stream.len() - 1]);
        assert_eq!(cut_short, Ok(parts[..3].to_vec()));
    }

    #[test]
    fn what_has_no_place_goes_to_the_signer_who_can_say_so() {
        for stream in [
            // A handshake message in the clear, an empty alert, a change of another form, one too many.
            record(22, 40),
            record(21, 0),
            record(20, 2),
        ] {
            let whole = FlightPart::Passed { len: stream.len() };
            assert_eq!(read_all(&stream), Ok(vec![whole]));
        }
        let parts = read_all(&CHANGE.repeat(3));
        assert_eq!(parts, Ok(vec![SKIPPED, SKIPPED, passed(1)]));
        // Behind the first record everything is the signer's.
        let stream = [&record(23, 70), CHANGE, &[21, 3, 3, 0, 2, 2, 42]].concat();
        assert_eq!(
            read_all(&stream),
            Ok(vec![passed(70), passed(1), passed(2)])
        );
    }

    #[test]
    fn a_client_may_leave_before_its_flight() {
        let left = read_all(&[CHANGE, &[21, 3, 3, 0, 2, 2, 42]].concat());
        assert_eq!(left, Err(FlightError::ClientAlert(42)));
    }

    #[test]
    fn a_flight_without_end_is_refused() {
        let most = record(23, 100).repeat(RECORDS_MAX);
        assert_eq!(read_all(&most).map(|parts| parts.len()), Ok(RECORDS_MAX));
        let more = [&most[..], &[23, 3, 3, 0, 100]].concat();
        assert_eq!(alert_of(&more), Some(alert::DECODE_ERROR));
        let large = record(23, 16_640).repeat(3);
        assert_eq!(read_all(&large).map(|parts| parts.len()), Ok(3));
        let left = BYTES_MAX - large.len() - HEADER_LEN;
        let whole = [&large[..], &record(23, left)].concat();
        assert_eq!(read_all(&whole).map(|parts| parts.len()), Ok(4));
        // Refused by its header.
        let more = [&large[..], &record(23, left + 1)[..HEADER_LEN]].concat();
        assert_eq!(alert_of(&more), Some(alert::DECODE_ERROR));
        assert_eq!(alert_of(&[23, 3, 3, 0x41, 1]), Some(alert::RECORD_OVERFLOW));
    }
}
