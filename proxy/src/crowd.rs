//! How many handshakes one client has open at once (security rule G).
//!
//! Counts addresses and nothing else; an IPv6 client is its /64, which one host has for itself. An address is in the
//! table only while it has a handshake open, so that the table is no larger than `connections_max`.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

/// Bits of an IPv6 address that name the network.
const NETWORK_BITS: u32 = 64;

/// The handshakes that are open, by client.
pub(crate) struct Crowd {
    per_client_max: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// One open handshake; gives its place back when it is dropped.
pub(crate) struct Place {
    crowd: Arc<Crowd>,
    client: IpAddr,
}

impl Crowd {
    /// At most so many a client.
    pub(crate) fn new(per_client_max: usize) -> Self {
        Self {
            per_client_max,
            open: Mutex::default(),
        }
    }

    /// A place for one more handshake of this client, if it has one left.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let client = client_of(address);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(client).or_default();
        if *count >= self.per_client_max {
            return None;
        }
        *count += 1;
        Some(Place {
            crowd: self.clone(),
            client,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let open = &self.crowd.open;
        let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.client);
            }
        }
    }
}

fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() & (u128::MAX << NETWORK_BITS);
            Ipv6Addr::from_bits(network).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_its_own_places_and_gets_them_back() {
        let crowd = Arc::new(Crowd::new(2));
        let enter = |address: &str| crowd.enter(address.parse().unwrap());
        let first = enter("192.0.2.1").unwrap();
        let _second = enter("::ffff:192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_none());
        let _other = enter("192.0.2.2").unwrap();
        drop(first);
        assert!(enter("192.0.2.1").is_some());
    }

    #[test]
    fn a_network_of_version_6_is_one_client() {
        let crowd = Arc::new(Crowd::new(1));
        let enter = |address: &str| crowd.enter(address.parse().unwrap());
        let _one = enter("2001:db8:1:2::1").unwrap();
        assert!(enter("2001:db8:1:2:ffff::9").is_none());
        assert!(enter("2001:db8:1:3::1").is_some());
    }

    #[test]
    fn nobody_stays_in_the_table() {
        let crowd = Arc::new(Crowd::new(8));
        let places: Vec<_> = (0..=255)
            .map(|last| crowd.enter([192, 0, 2, last].into()))
            .collect();
        assert_eq!(crowd.open.lock().unwrap().len(), 256);
        drop(places);
        assert!(crowd.open.lock().unwrap().is_empty());
    }
}
