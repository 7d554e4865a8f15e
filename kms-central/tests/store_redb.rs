//! What only the file has to hold: one process, a killed process, a full disk, rights, and what is no store at all.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod store_kit;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use keyhaven_kms_central::store::{AnyStore, RedbStore, StateStore as _, StoreError, WatchEnd};
use store_kit::{next, put, redb, told, value, write};
use tempfile::TempDir;

fn open(path: &Path) -> Result<RedbStore, StoreError> {
    RedbStore::open(path, 1024 * 1024)
}

/// The whole of what the operator is told.
fn chain(error: StoreError) -> String {
    let (mut line, mut error): (_, Box<dyn std::error::Error>) = (String::new(), error.into());
    line.push_str(&error.to_string());
    while let Some(source) = error.source() {
        line.push_str(&format!(": {source}"));
        error = source.to_string().into();
    }
    line
}

#[tokio::test]
async fn one_process_has_it_and_what_was_acknowledged_is_there_again() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("store.redb");
    let store = AnyStore::Redb(redb(dir.path()));
    let revision = write(&store, "a", "1").await;
    let error = chain(open(&path).err().unwrap());
    assert!(error.contains("another process has it"), "{error}");
    drop(store);
    let store = AnyStore::Redb(redb(dir.path()));
    assert_eq!(value(&store, "a").await, Some(("1".to_owned(), revision)));
    assert_eq!(write(&store, "a", "2").await, revision + 1);
    let mut watch = store.watch(revision).await.unwrap();
    let event = next(&mut watch).await.unwrap();
    assert_eq!(told(&event), [("a".to_owned(), "1".to_owned())]);
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn its_owner_alone_can_read_it_also_after_a_backup_was_copied_back() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("store.redb");
    drop(open(&path).unwrap());
    assert_eq!(mode(&path), 0o600);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    drop(open(&path).unwrap());
    assert_eq!(mode(&path), 0o600);
}

#[tokio::test]
async fn what_it_has_forgotten_is_said() {
    let dir = TempDir::new().unwrap();
    let store = redb(dir.path());
    for _ in 0..5 {
        store.txn(put(&[], &[("a", "1")])).await.unwrap();
    }
    store.compact(4).unwrap();
    let ended = next(&mut store.watch(2).await.unwrap()).await;
    assert!(
        matches!(ended, Err(WatchEnd::Compacted { at: 4 })),
        "{ended:?}"
    );
    let page = store.scan(b"a", b"b", Some(2), 10).await;
    assert!(
        matches!(page, Err(StoreError::Forgotten { at: 2 })),
        "{page:?}"
    );
    let mut watch = store.watch(4).await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap().revision, 4);
}

#[test]
fn what_is_no_store_is_said_and_left_alone() {
    let dir = TempDir::new().unwrap();
    let other = dir.path().join("other");
    std::fs::write(&other, vec![7; 100_000]).unwrap();
    let error = chain(open(&other).err().unwrap());
    assert!(error.contains("another kind of file"), "{error}");
    assert_eq!(std::fs::read(&other).unwrap(), vec![7; 100_000]);
    let cut = dir.path().join("cut");
    drop(open(&cut).unwrap());
    let length = cut.metadata().unwrap().len();
    let file = std::fs::OpenOptions::new().write(true).open(&cut).unwrap();
    file.set_len(length / 2).unwrap();
    let error = chain(open(&cut).err().unwrap());
    assert!(error.contains("damaged: restore a backup"), "{error}");
    let error = chain(open(&dir.path().join("no/such")).err().unwrap());
    assert!(error.contains("check the folder"), "{error}");
}

/// Where the child of a test writes; set by the test alone.
const CHILD: &str = "KEYHAVEN_TEST_STORE_CHILD";

/// The child's part: writes without end, and says what was acknowledged. Nothing to do when nobody started it as a child.
#[tokio::test]
async fn a_child_says_what_was_acknowledged_to_it() {
    let Some(path) = std::env::var_os(CHILD).map(PathBuf::from) else {
        return;
    };
    let store = AnyStore::Redb(open(&path).unwrap());
    let last = value(&store, "last").await;
    let mut number = last.map_or(0, |(text, _)| text.parse::<u64>().unwrap());
    loop {
        number += 1;
        let (name, text) = (format!("n/{number}"), number.to_string());
        let txn = put(&[], &[(&name, &text), ("last", &text)]);
        store.txn(txn).await.unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "acknowledged {number}").unwrap();
        out.flush().unwrap();
    }
}

/// Starts a child and kills it when it has said `after` numbers; the last that it said.
fn killed_child(path: &Path, after: usize) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_child_says_what_was_acknowledged_to_it"])
        .arg("--nocapture")
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = |line: std::io::Result<String>| -> Option<u64> {
        let line = line.ok()?;
        line.split_once("acknowledged ")?.1.parse().ok()
    };
    let mut said = lines.filter_map(said);
    let mut last = said.by_ref().take(after).last().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    // What it had said before it was killed and nobody had read.
    last = said.last().unwrap_or(last);
    last
}

#[tokio::test]
async fn a_process_killed_while_it_writes_loses_nothing_that_it_acknowledged() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("store.redb");
    let mut acknowledged = 0;
    for round in 1..=6 {
        let last = killed_child(&path, round * 7);
        assert!(last >= acknowledged + 7, "it went on from what was there");
        acknowledged = last;
        let store = AnyStore::Redb(redb(dir.path()));
        let found = value(&store, "last").await.unwrap().0;
        let found: u64 = found.parse().unwrap();
        // One more may have been on the disk before it could be said.
        assert!((last..=last + 1).contains(&found), "{found}, not {last}");
        for number in 1..=found {
            let name = format!("n/{number}");
            assert!(value(&store, &name).await.is_some(), "{name} is lost");
        }
        assert_eq!(value(&store, &format!("n/{}", found + 1)).await, None);
        let mut watch = store.watch(1).await.unwrap();
        for number in 1..=found {
            let event = next(&mut watch).await.unwrap();
            assert_eq!(told(&event)[0].1, number.to_string());
            assert_eq!(event.revision, number);
        }
    }
}

/// A small file system that can be full.
struct Tmpfs(TempDir);

impl Tmpfs {
    fn new(size: &str) -> Tmpfs {
        let dir = TempDir::new().unwrap();
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir.path())
            .status();
        let mounted = status.is_ok_and(|status| status.success());
        assert!(mounted, "mounting needs root");
        Tmpfs(dir)
    }

    /// Takes the rest of it away.
    fn fill(&self) {
        let mut ballast = std::fs::File::create(self.0.path().join("ballast")).unwrap();
        while ballast.write_all(&[0; 4096]).is_ok() {}
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.path().join("ballast")).unwrap();
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn on_a_full_disk_nothing_is_lost_reads_go_on_and_so_do_writes_when_there_is_room() {
    let disk = Tmpfs::new("12m");
    let store = AnyStore::Redb(redb(disk.0.path()));
    let large = "x".repeat(100_000);
    for number in 0..5 {
        write(&store, &format!("k/{number}"), &large).await;
    }
    disk.fill();
    let mut acknowledged = 5;
    let error = loop {
        let name = format!("k/{acknowledged}");
        match store.txn(put(&[], &[(&name, &large)])).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 1000, "the disk does not fill up");
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    let refused = format!("k/{acknowledged}");
    assert_eq!(value(&store, &refused).await, None, "nothing was written");
    assert!(value(&store, "k/0").await.is_some(), "reads go on");
    disk.make_room();
    let after = write(&store, "after", "1").await;
    for number in 0..acknowledged {
        let name = format!("k/{number}");
        assert!(value(&store, &name).await.is_some(), "{name} is lost");
    }
    drop(store);
    let store = AnyStore::Redb(redb(disk.0.path()));
    assert_eq!(value(&store, "after").await, Some(("1".to_owned(), after)));
    let mut watch = store.watch(1).await.unwrap();
    for revision in 1..=after {
        assert_eq!(next(&mut watch).await.unwrap().revision, revision);
    }
}

#[tokio::test]
async fn a_file_that_vanished_is_not_replaced_by_an_empty_one() {
    let disk = Tmpfs::new("4m");
    let path = disk.0.path().join("store.redb");
    let store = AnyStore::Redb(redb(disk.0.path()));
    write(&store, "a", "1").await;
    disk.fill();
    // The failure closes the file, and the next request opens it anew.
    let large = "x".repeat(900_000);
    while store.txn(put(&[], &[("b", &large)])).await.is_ok() {}
    std::fs::rename(&path, disk.0.path().join("elsewhere")).unwrap();
    disk.make_room();
    let lost = store.get(b"a").await;
    assert!(matches!(lost, Err(StoreError::Open { .. })), "{lost:?}");
    assert!(!path.exists());
    std::fs::rename(disk.0.path().join("elsewhere"), &path).unwrap();
    assert_eq!(value(&store, "a").await.unwrap().0, "1");
}
