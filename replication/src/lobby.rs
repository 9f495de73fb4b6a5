//! Connections of which nobody has said yet who they are: so many, and who comes next finds room. It is made by
//! the one that has been there longest of the origin that has the most of them. Whoever means it is through in
//! no time, so that a crowd that never speaks keeps nobody out, and one host that comes faster than others can
//! greet takes its own places and not theirs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

/// Connections without a greeting, at most.
pub const STRANGERS_MAX: usize = 128;

/// From where one comes: what one host can choose of an address does not make it several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin(IpAddr);

impl Origin {
    /// That of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            // A host has the whole of its network's last 64 bits.
            IpAddr::V6(address) => Self(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into()),
            address => Self(address),
        }
    }
}

/// Where they wait.
#[derive(Debug, Default)]
pub struct Lobby {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    /// By number, and so the oldest first.
    waiting: BTreeMap<u64, (Origin, Arc<Notify>)>,
}

impl Inner {
    /// Who makes room: never the only one of its origin while another has several.
    fn evict(&mut self) {
        let mut counts: BTreeMap<Origin, usize> = BTreeMap::new();
        for (origin, _) in self.waiting.values() {
            *counts.entry(*origin).or_default() += 1;
        }
        let most = counts.values().max().copied().unwrap_or_default();
        let oldest = self.waiting.iter().find(|(_, (origin, _))| counts[origin] == most);
        if let Some(number) = oldest.map(|(number, _)| *number)
            && let Some((_, taken)) = self.waiting.remove(&number)
        {
            taken.notify_one();
        }
    }
}

/// One of them; given back with this.
#[derive(Debug)]
pub struct Place {
    lobby: Arc<Lobby>,
    number: u64,
    taken: Arc<Notify>,
}

impl Lobby {
    /// A place for one more, whoever makes it.
    #[must_use]
    pub fn enter(self: &Arc<Self>, origin: Origin) -> Place {
        let taken = Arc::new(Notify::new());
        let mut inner = self.lock();
        if inner.waiting.len() >= STRANGERS_MAX {
            inner.evict();
        }
        inner.next += 1;
        let number = inner.next;
        inner.waiting.insert(number, (origin, Arc::clone(&taken)));
        drop(inner);
        Place { lobby: Arc::clone(self), number, taken }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds the list")
    }
}

impl Place {
    /// Resolves when another one needed it.
    pub async fn taken(&self) {
        self.taken.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lobby.lock().waiting.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(address: &str) -> Origin {
        Origin::of(address.parse().unwrap())
    }

    fn is_taken(place: &Place) -> bool {
        let mut taken = std::pin::pin!(place.taken());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        taken.as_mut().poll(&mut context).is_ready()
    }

    #[test]
    fn the_oldest_makes_room() {
        let lobby = Arc::new(Lobby::default());
        let from = origin("10.0.0.1");
        let mut places: Vec<Place> = (0..STRANGERS_MAX).map(|_| lobby.enter(from)).collect();
        let next = lobby.enter(from);
        assert!(is_taken(&places[0]));
        for place in places[1..].iter().chain([&next]) {
            assert!(!is_taken(place));
        }
        places.clear();
        drop(next);
        assert!(lobby.lock().waiting.is_empty());
    }

    /// G12: one host that comes again and again keeps nobody else out, however long that one takes.
    #[test]
    fn a_crowd_of_one_host_makes_room_for_others() {
        let lobby = Arc::new(Lobby::default());
        let slow = lobby.enter(origin("10.0.0.2"));
        let other = lobby.enter(origin("2001:db8::1"));
        let mut crowd = Vec::new();
        for number in 0..1000_u32 {
            let from = match number % 2 {
                0 => "10.0.0.1".to_owned(),
                _ => "::ffff:10.0.0.1".to_owned(),
            };
            crowd.push(lobby.enter(origin(&from)));
        }
        for number in 0..1000 {
            // All of one network's last half are one.
            crowd.push(lobby.enter(origin(&format!("2001:db8:0:1::{number:x}"))));
        }
        assert!(!is_taken(&slow));
        assert!(!is_taken(&other));
        assert_eq!(lobby.lock().waiting.len(), STRANGERS_MAX);
        let left = crowd.iter().filter(|place| !is_taken(place)).count();
        assert_eq!(left, STRANGERS_MAX - 2);
    }
}
