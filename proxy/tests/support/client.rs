//! A client that knows the keys, so that it needs no TLS library.

use keyhaven_proxy::record::{Bound, Generation, ReadKey, WriteKey, next_record};
use keyhaven_types::TlsVersion;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    FROM_CLIENT, TO_CLIENT, client_hello, client_hello_for, handshake_record, key, read_flight,
};

/// A client that knows the keys.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) write: WriteKey,
    pub(crate) read: ReadKey,
    version: TlsVersion,
    received: Vec<u8>,
}

impl Client {
    /// A client whose handshake is over, with so many records behind it each way.
    pub(crate) fn new(stream: TcpStream, version: TlsVersion, seq: u64) -> Self {
        let first = Generation::FIRST;
        Self {
            stream,
            write: WriteKey::new(version, first, &key(FROM_CLIENT, seq)).unwrap(),
            read: ReadKey::new(version, first, &key(TO_CLIENT, seq)).unwrap(),
            version,
            received: Vec::new(),
        }
    }

    /// Handshakes with this verify_data in its Finished.
    pub(crate) async fn finish(stream: TcpStream, verify_data: &[u8]) -> Self {
        Self::finish_with(stream, &client_hello(), verify_data).await
    }

    /// The same for a host name.
    pub(crate) async fn finish_for(stream: TcpStream, name: &str, verify_data: &[u8]) -> Self {
        Self::finish_with(stream, &client_hello_for(name), verify_data).await
    }

    async fn finish_with(mut stream: TcpStream, hello: &[u8], verify_data: &[u8]) -> Self {
        stream.write_all(hello).await.unwrap();
        read_flight(&mut stream).await;
        let message = [&[20, 0, 0, 32][..], verify_data].concat();
        stream
            .write_all(&handshake_record(22, &message))
            .await
            .unwrap();
        Self::new(stream, TlsVersion::Tls13, 0)
    }

    /// TLS 1.2: the client's second flight has been answered already.
    pub(crate) fn tls12(stream: TcpStream) -> Self {
        Self::new(stream, TlsVersion::Tls12, 1)
    }

    pub(crate) async fn send(&mut self, content_type: u8, content: &[u8]) {
        let mut record = Vec::new();
        self.write.seal(content_type, content, &mut record).unwrap();
        self.stream.write_all(&record).await.unwrap();
    }

    pub(crate) async fn send_data(&mut self, data: &[u8]) {
        for part in data.chunks(16_384) {
            self.send(23, part).await;
        }
    }

    /// The next record's type and content; `None` at the end of the stream.
    pub(crate) async fn receive(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some(record) = next_record(&self.received, Bound::Tls12).unwrap() {
                let mut bytes: Vec<u8> = self.received.drain(..record.len).collect();
                let opened = self.read.open(&mut bytes).unwrap();
                return Some((opened.content_type, bytes[opened.plaintext].to_vec()));
            }
            if self.stream.read_buf(&mut self.received).await.unwrap() == 0 {
                assert_eq!(self.received, b"", "a record was cut");
                return None;
            }
        }
    }

    /// Data up to the next record that is none.
    pub(crate) async fn receive_data(&mut self) -> (Vec<u8>, Option<(u8, Vec<u8>)>) {
        let mut data = Vec::new();
        loop {
            match self.receive().await {
                Some((23, content)) => data.extend_from_slice(&content),
                other => return (data, other),
            }
        }
    }

    pub(crate) async fn receive_exactly(&mut self, len: usize) -> Vec<u8> {
        let mut data = Vec::new();
        while data.len() < len {
            let (kind, content) = self.receive().await.unwrap();
            assert_eq!(kind, 23, "{content:?}");
            data.extend_from_slice(&content);
        }
        data
    }

    /// The next key for what the client writes.
    pub(crate) fn switch_write(&mut self, generation: u8) {
        let next = key(FROM_CLIENT + generation, 0);
        self.write = WriteKey::new(self.version, Generation(generation.into()), &next).unwrap();
    }

    /// The next key for what the client reads.
    pub(crate) fn switch_read(&mut self, generation: u8) {
        let next = key(TO_CLIENT + generation, 0);
        self.read = ReadKey::new(self.version, Generation(generation.into()), &next).unwrap();
    }
}
