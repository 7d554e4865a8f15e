//! The replica's file, which goes on answering when nothing can be written any more.
//!
//! From the first write that fails on, everything that is written is held in memory, on top of the file; it goes to the
//! file when there is room again. Whoever writes must then stop after the transaction that met the failure
//! ([`Disk::is_whole`]). Invariant: what is on the medium is at each moment a state that redb recovers from.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use redb::StorageBackend;

/// What bytes can be kept on.
pub(in crate::intermediate) trait Medium: fmt::Debug + Send + Sync {
    fn len(&self) -> io::Result<u64>;
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    fn sync(&self) -> io::Result<()>;
}

impl Medium for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(out, offset)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_all_at(data, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Self::set_len(self, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// A medium with what could not be written to it. Clones are the same disk.
#[derive(Clone)]
pub(in crate::intermediate) struct Disk(Arc<Inner>);

struct Inner {
    medium: Box<dyn Medium>,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    /// What was written since the medium was last synced: a failed sync may have lost it.
    unsynced: Blocks,
    held: Option<Held>,
}

/// What the medium did not take.
struct Held {
    len: u64,
    blocks: Blocks,
}

type Blocks = BTreeMap<u64, Box<[u8]>>;

impl Disk {
    pub(in crate::intermediate) fn new(medium: impl Medium + 'static) -> Self {
        Self(Arc::new(Inner {
            medium: Box::new(medium),
            state: RwLock::default(),
        }))
    }

    /// Whether everything that was written is on the medium.
    pub(super) fn is_whole(&self) -> bool {
        self.read_state().held.is_none()
    }

    /// Tries to bring to the medium what it did not take: first what no valid header points at, then the header.
    ///
    /// # Errors
    /// When it still does not take it; nothing is lost then.
    pub(super) fn flush(&self) -> io::Result<()> {
        let mut state = self.write_state();
        let Some(held) = &state.held else {
            return Ok(());
        };
        let medium = &self.0.medium;
        if medium.len()? != held.len {
            medium.set_len(held.len)?;
        }
        for (number, block) in held.blocks.range(1..) {
            medium.write(number * BLOCK, within(held.len, *number, block))?;
        }
        medium.sync()?;
        if let Some(header) = held.blocks.get(&0) {
            medium.write(0, within(held.len, 0, header))?;
            medium.sync()?;
        }
        *state = State::default();
        Ok(())
    }

    fn read_state(&self) -> RwLockReadGuard<'_, State> {
        self.0.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_state(&self) -> RwLockWriteGuard<'_, State> {
        self.0.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on everything is held.
    fn hold<'a>(&self, state: &'a mut State, why: &io::Error) -> io::Result<&'a mut Held> {
        if state.held.is_none() {
            tracing::error!(error = %why, "the replica's disk does not take what is written to it");
            let len = self.0.medium.len()?;
            let blocks = std::mem::take(&mut state.unsynced);
            state.held = Some(Held { len, blocks });
        }
        state
            .held
            .as_mut()
            .ok_or_else(|| io::Error::other("nothing is held"))
    }

    /// A block as it is now, zeros behind the end of the medium.
    fn block(&self, state: &State, number: u64) -> io::Result<Box<[u8]>> {
        let held = state
            .held
            .as_ref()
            .and_then(|held| held.blocks.get(&number));
        if let Some(block) = held {
            return Ok(block.clone());
        }
        let mut block = vec![0; BLOCK_LEN].into_boxed_slice();
        let len = self.0.medium.len()?;
        let start = number * BLOCK;
        let there = usize::try_from(len.saturating_sub(start)).unwrap_or(usize::MAX);
        let there = there.min(BLOCK_LEN);
        self.0.medium.read(start, &mut block[..there])?;
        Ok(block)
    }

    /// The blocks that a write changes, as they are after it.
    fn changed(&self, state: &State, offset: u64, data: &[u8]) -> io::Result<Blocks> {
        let mut blocks = Blocks::new();
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let number = at / BLOCK;
            let from = usize::try_from(at % BLOCK).unwrap_or(0);
            let (now, later) = rest.split_at(rest.len().min(BLOCK_LEN - from));
            let mut block = if now.len() == BLOCK_LEN {
                vec![0; BLOCK_LEN].into_boxed_slice()
            } else {
                self.block(state, number)?
            };
            block[from..from + now.len()].copy_from_slice(now);
            blocks.insert(number, block);
            at += now.len() as u64;
            rest = later;
        }
        Ok(blocks)
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        match &self.read_state().held {
            Some(held) => Ok(held.len),
            None => self.0.medium.len(),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.read_state();
        if state.held.is_none() {
            return self.0.medium.read(offset, out);
        }
        let mut at = offset;
        let mut rest = out;
        while !rest.is_empty() {
            let from = usize::try_from(at % BLOCK).unwrap_or(0);
            let len = rest.len().min(BLOCK_LEN - from);
            let block = self.block(&state, at / BLOCK)?;
            rest[..len].copy_from_slice(&block[from..from + len]);
            at += len as u64;
            rest = &mut rest[len..];
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.write_state();
        if state.held.is_none() {
            match self.0.medium.set_len(len) {
                Ok(()) => return Ok(()),
                Err(why) => drop(self.hold(&mut state, &why)?),
            }
        }
        if let Some(held) = &mut state.held {
            held.len = len;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.write_state();
        if state.held.is_some() {
            return Ok(());
        }
        match self.0.medium.sync() {
            Ok(()) => state.unsynced.clear(),
            Err(why) => drop(self.hold(&mut state, &why)?),
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.write_state();
        let blocks = self.changed(&state, offset, data)?;
        if state.held.is_none() {
            match self.0.medium.write(offset, data) {
                Ok(()) => {
                    state.unsynced.extend(blocks);
                    return Ok(());
                }
                Err(why) => drop(self.hold(&mut state, &why)?),
            }
        }
        if let Some(held) = &mut state.held {
            held.len = held.len.max(offset + data.len() as u64);
            held.blocks.extend(blocks);
        }
        Ok(())
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Disk({:?})", self.0.medium)
    }
}

/// The part of a block that is before the end.
fn within(len: u64, number: u64, block: &[u8]) -> &[u8] {
    let there = usize::try_from(len.saturating_sub(number * BLOCK)).unwrap_or(usize::MAX);
    &block[..there.min(block.len())]
}

/// redb writes whole pages of this size, and its header into the first one.
const BLOCK: u64 = 4096;
const BLOCK_LEN: usize = 4096;
