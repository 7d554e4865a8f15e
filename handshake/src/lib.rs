//! A TLS server handshake whose secrets live in a token. The only room that names rustls' handshake API.
