//! The next keys of one direction: asks for them one at a time, and takes each generation once (security rule T2).
//!
//! Leaves to others which signer is asked and when. A [`NextKey`] comes only from an answer to the one outstanding
//! question, so a repeated, late or reordered answer can never bring an old key back.

use keyhaven_types::Direction;
use keyhaven_wire::{ConnectionId, REKEY_STATE_BYTES_MAX, Rekey, Rekeyed, TrafficKey};

use crate::record::Generation;

/// A key that may follow the one in use, once.
#[derive(Debug)]
pub struct NextKey {
    pub(super) generation: Generation,
    pub(super) key: TrafficKey,
}

/// Why there is no next key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RekeyError {
    /// TLS 1.2, or the signer gave no state.
    #[error("this connection's keys cannot be replaced")]
    Unsupported,
    /// A question is still open.
    #[error("the next key has been asked for already")]
    Outstanding,
    /// The answer is not to the question that is open: another connection, direction or generation, or a repetition.
    #[error("an answer that was not asked for")]
    NotAsked,
    /// The answer holds something that cannot follow the key in use.
    #[error("the signer's next key does not fit")]
    Unfit,
}

/// The state of one direction.
pub struct Rekeying {
    connection: ConnectionId,
    direction: Direction,
    current: Generation,
    state: Vec<u8>,
    is_outstanding: bool,
}

impl Rekeying {
    /// Starts with the keys that the handshake gave and the sealed state that came with them.
    pub fn new(connection: ConnectionId, direction: Direction, state: Vec<u8>) -> Self {
        Self {
            connection,
            direction,
            current: Generation::FIRST,
            state,
            is_outstanding: false,
        }
    }

    /// Whether there can be a next key at all: not in TLS 1.2.
    pub fn is_supported(&self) -> bool {
        !self.state.is_empty() && self.current.next().is_some()
    }

    /// The question for the next key. Until it is answered or given up there is no other.
    pub fn ask(&mut self) -> Result<Rekey, RekeyError> {
        if self.is_outstanding {
            return Err(RekeyError::Outstanding);
        }
        let next = self.current.next().ok_or(RekeyError::Unsupported)?;
        if !self.is_supported() {
            return Err(RekeyError::Unsupported);
        }
        self.is_outstanding = true;
        Ok(Rekey {
            connection: self.connection,
            direction: self.direction,
            generation: next.0,
            state: self.state.clone(),
        })
    }

    /// Takes an answer. A wrong one changes nothing.
    pub fn answer(&mut self, answer: Rekeyed) -> Result<NextKey, RekeyError> {
        let expected = self.current.next().ok_or(RekeyError::Unsupported)?;
        let is_asked = self.is_outstanding
            && answer.connection == self.connection
            && answer.direction == self.direction
            && answer.generation == expected.0;
        if !is_asked {
            return Err(RekeyError::NotAsked);
        }
        if answer.key.seq != 0
            || answer.state.is_empty()
            || answer.state.len() > REKEY_STATE_BYTES_MAX
        {
            return Err(RekeyError::Unfit);
        }
        self.is_outstanding = false;
        self.current = expected;
        self.state = answer.state;
        Ok(NextKey {
            generation: expected,
            key: answer.key,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyhaven_types::{AeadAlgorithm, Secret};
    use proptest::prelude::*;

    const CONNECTION: ConnectionId = ConnectionId([7; 32]);

    fn answer(connection: ConnectionId, direction: Direction, generation: u32) -> Rekeyed {
        Rekeyed {
            connection,
            direction,
            generation,
            key: TrafficKey {
                aead: AeadAlgorithm::Aes128Gcm,
                key: Secret::new(vec![generation as u8; 16]),
                iv: Secret::new(vec![0; 12]),
                seq: 0,
            },
            state: vec![generation as u8; 8],
        }
    }

    fn rekeying() -> Rekeying {
        Rekeying::new(CONNECTION, Direction::Write, vec![0; 8])
    }

    #[test]
    fn generations_follow_one_another() {
        let mut rekeying = rekeying();
        for generation in 1..=3 {
            let asked = rekeying.ask().unwrap();
            assert_eq!(asked.generation, generation);
            assert_eq!(asked.state, vec![(generation - 1) as u8; 8]);
            let given = answer(CONNECTION, Direction::Write, generation);
            assert_eq!(rekeying.answer(given).unwrap().generation.0, generation);
        }
    }

    #[test]
    fn only_one_question_is_open() {
        let mut rekeying = rekeying();
        rekeying.ask().unwrap();
        assert_eq!(rekeying.ask().unwrap_err(), RekeyError::Outstanding);
    }

    #[test]
    fn without_state_nothing_is_asked() {
        let mut tls12 = Rekeying::new(CONNECTION, Direction::Read, Vec::new());
        assert_eq!(tls12.ask().unwrap_err(), RekeyError::Unsupported);
    }

    #[test]
    fn answers_nobody_asked_for_are_dropped() {
        let mut rekeying = rekeying();
        let unasked = answer(CONNECTION, Direction::Write, 1);
        assert_eq!(rekeying.answer(unasked).unwrap_err(), RekeyError::NotAsked);
        rekeying.ask().unwrap();
        for wrong in [
            answer(ConnectionId([8; 32]), Direction::Write, 1),
            answer(CONNECTION, Direction::Read, 1),
            answer(CONNECTION, Direction::Write, 0),
            answer(CONNECTION, Direction::Write, 2),
        ] {
            assert_eq!(rekeying.answer(wrong).unwrap_err(), RekeyError::NotAsked);
        }
        let right = || answer(CONNECTION, Direction::Write, 1);
        assert!(rekeying.answer(right()).is_ok());
        assert_eq!(rekeying.answer(right()).unwrap_err(), RekeyError::NotAsked);
    }

    #[test]
    fn an_answer_with_a_used_sequence_number_is_unfit() {
        let mut rekeying = rekeying();
        rekeying.ask().unwrap();
        let mut used = answer(CONNECTION, Direction::Write, 1);
        used.key.seq = 1;
        assert_eq!(rekeying.answer(used).unwrap_err(), RekeyError::Unfit);
    }

    proptest! {
        /// Whatever order questions and answers come in, each generation is installed at most once, in order.
        #[test]
        fn no_generation_is_installed_twice(steps in prop::collection::vec((any::<bool>(), 0u32..6), 0..64)) {
            let mut rekeying = rekeying();
            let mut installed = 0;
            for (asks, generation) in steps {
                if asks {
                    let _ = rekeying.ask();
                } else if let Ok(next) = rekeying.answer(answer(CONNECTION, Direction::Write, generation)) {
                    prop_assert_eq!(next.generation.0, installed + 1);
                    installed += 1;
                }
            }
        }
    }
}
