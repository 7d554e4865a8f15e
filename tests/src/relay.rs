//! Stands between proxy and signer and sees every frame.
//!
//! It holds both sides' certificates and keys, which nobody outside a test may, so each side believes to speak
//! with the other. Frames are recorded as they come, decoded, handed to the test's rule and encoded again.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use keyhaven_wire::{Decoder, Message, Reply, Request, encode};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::channel::{client_config, server_config};
use crate::pki::Pair;

/// A frame on its way.
#[derive(Debug)]
pub enum Frame {
    /// From the proxy, with its id.
    ToSigner(u64, Request),
    /// From the signer, with its id.
    ToProxy(u64, Reply),
}

/// What becomes of a frame: the frames to send in its place. None drops or holds it.
pub type Rule = Box<dyn FnMut(Frame) -> Vec<Frame> + Send>;

/// A rule that changes nothing.
pub fn pass() -> Rule {
    Box::new(|frame| vec![frame])
}

impl Frame {
    /// The same frame once more.
    pub fn duplicate(&self) -> Frame {
        match self {
            Frame::ToSigner(id, request) => Frame::ToSigner(*id, copy(*id, request)),
            Frame::ToProxy(id, reply) => Frame::ToProxy(*id, copy(*id, reply)),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Frame::ToSigner(id, request) => encode(*id, request, &mut bytes),
            Frame::ToProxy(id, reply) => encode(*id, reply, &mut bytes),
        }
        .expect("what was decoded can be encoded");
        bytes
    }
}

/// A running relay.
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    cut: watch::Sender<u64>,
    _stop: mpsc::Sender<()>,
}

struct Shared {
    rule: Mutex<Rule>,
    recorded: Mutex<Vec<Vec<u8>>>,
    /// Where frames of the newest connection go.
    newest: Mutex<Option<Out>>,
}

impl Relay {
    /// Listens on a free port as the signer, and connects to the real one as the proxy.
    pub fn start(signer: SocketAddr, as_signer: &Pair, as_proxy: &Pair, rule: Rule) -> Relay {
        let shared = Arc::new(Shared {
            rule: Mutex::new(rule),
            recorded: Mutex::default(),
            newest: Mutex::default(),
        });
        let ours = shared.clone();
        let acceptor = TlsAcceptor::from(Arc::new(server_config(as_signer)));
        let connector = TlsConnector::from(Arc::new(client_config(Some(as_proxy))));
        let (stop, mut stopped) = mpsc::channel::<()>(1);
        let (cut, cuts) = watch::channel(0);
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime can be made");
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0")
                    .await
                    .expect("a port is free");
                let _ = tell.send(listener.local_addr().expect("it is bound"));
                loop {
                    let stream = tokio::select! {
                        accepted = listener.accept() => accepted.map(|(stream, _)| stream),
                        _ = stopped.recv() => return,
                    };
                    if let Ok(stream) = stream {
                        let connection = connection(
                            stream,
                            signer,
                            acceptor.clone(),
                            connector.clone(),
                            shared.clone(),
                        );
                        let mut cuts = cuts.clone();
                        cuts.mark_unchanged();
                        tokio::spawn(async move {
                            tokio::select! {
                                () = connection => {}
                                _ = cuts.changed() => {}
                            }
                        });
                    }
                }
            });
        });
        Relay {
            address: told.recv().expect("it listens"),
            shared: ours,
            cut,
            _stop: stop,
        }
    }

    /// Where the proxy finds it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every frame so far as it was on the wire, both directions.
    pub fn recorded(&self) -> Vec<Vec<u8>> {
        self.shared
            .recorded
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Sends a frame on the newest connection, as if it came from the other side.
    pub fn inject(&self, frame: &Frame) {
        let newest = self
            .shared
            .newest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let out = newest.expect("a connection was made");
        let to = if matches!(frame, Frame::ToSigner(..)) {
            out.to_signer
        } else {
            out.to_proxy
        };
        to.blocking_send(frame.bytes())
            .expect("the connection is open");
    }

    /// Cuts every connection that is open now.
    pub fn cut(&self) {
        self.cut.send_modify(|count| *count += 1);
    }
}

async fn connection(
    stream: TcpStream,
    signer: SocketAddr,
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    shared: Arc<Shared>,
) {
    let Ok(proxy) = acceptor.accept(stream).await else {
        return;
    };
    let Ok(stream) = TcpStream::connect(signer).await else {
        return;
    };
    let name = ServerName::try_from("signer").expect("a name");
    let Ok(signer) = connector.connect(name, stream).await else {
        return;
    };
    let (proxy_read, proxy_write) = tokio::io::split(proxy);
    let (signer_read, signer_write) = tokio::io::split(signer);
    let (to_signer, for_signer) = mpsc::channel(FRAMES_WAITING);
    let (to_proxy, for_proxy) = mpsc::channel(FRAMES_WAITING);
    let out = Out {
        to_signer,
        to_proxy,
    };
    *shared.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(out.clone());
    // Whatever ends first ends the rest: a connection of the one side stands for one of the other.
    tokio::select! {
        () = pump::<Request>(proxy_read, Frame::ToSigner, out.clone(), shared.clone()) => {}
        () = pump::<Reply>(signer_read, Frame::ToProxy, out, shared) => {}
        () = write(signer_write, for_signer) => {}
        () = write(proxy_write, for_proxy) => {}
    }
}

#[derive(Clone)]
struct Out {
    to_signer: mpsc::Sender<Vec<u8>>,
    to_proxy: mpsc::Sender<Vec<u8>>,
}

async fn pump<T: Message>(
    mut from: impl AsyncRead + Unpin,
    wrap: fn(u64, T) -> Frame,
    out: Out,
    shared: Arc<Shared>,
) {
    let mut decoder = Decoder::<T>::new();
    loop {
        match decoder.next() {
            Ok(Some((id, message))) => {
                let frame = wrap(id, message);
                shared
                    .recorded
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(frame.bytes());
                let frames = (shared.rule.lock().unwrap_or_else(PoisonError::into_inner))(frame);
                for frame in frames {
                    let to = if matches!(frame, Frame::ToSigner(..)) {
                        &out.to_signer
                    } else {
                        &out.to_proxy
                    };
                    if to.send(frame.bytes()).await.is_err() {
                        return;
                    }
                }
            }
            Ok(None) => match from.read_buf(decoder.room()).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            },
            Err(_) => return,
        }
    }
}

async fn write(mut to: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Vec<u8>>) {
    while let Some(bytes) = frames.recv().await {
        if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
}

fn copy<T: Message>(id: u64, message: &T) -> T {
    let mut bytes = Vec::new();
    encode(id, message, &mut bytes).expect("what was decoded can be encoded");
    decode(&bytes).expect("what was encoded can be decoded").1
}

/// The message in a recorded frame, if it is of this kind.
pub fn decode<T: Message>(bytes: &[u8]) -> Option<(u64, T)> {
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    decoder.next().ok().flatten()
}

/// Frames that may wait for a slow side.
const FRAMES_WAITING: usize = 64;
