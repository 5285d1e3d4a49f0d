//! How many isolation keys come by fields of `http://` requests.
//!
//! A page in a browser can set such a field in the requests that it makes, and each new value would cost a circuit. What
//! a browser marks as a page's has no word in it; for the rest there are few keys of one application and in all.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use cepa_common::sync::lock;

use super::connector::IsolationKey;

/// Keys of one machine, of one user of this machine, or of one who passes connections on, that are in use.
const OF_ORIGIN: usize = 4;
/// Keys of a listener that are in use.
const MOST: usize = 256;
/// A key is in use for so long after its last request. A circuit takes new streams for about as long.
const LIFE: Duration = Duration::from_secs(600);

/// The keys of a listener that came by fields.
#[derive(Default)]
pub(super) struct FieldKeys(Mutex<HashMap<IsolationKey, Instant>>);

impl FieldKeys {
    /// May a request with this key be passed on? One without a field for isolation always may.
    pub(super) fn admits(&self, key: &IsolationKey, now: Instant) -> bool {
        if key.marks.tokens.iter().all(Option::is_none) {
            return true;
        }
        let mut keys = lock(&self.0);
        keys.retain(|_, used| now.saturating_duration_since(*used) < LIFE);
        if let Some(used) = keys.get_mut(key) {
            *used = now;
            return true;
        }
        let is_of_same =
            |other: &&IsolationKey| other.client == key.client && other.within == key.within;
        let of_origin = keys.keys().filter(is_of_same);
        let is_full = of_origin.count() >= OF_ORIGIN || keys.len() >= MOST;
        if !is_full {
            keys.insert(key.clone(), now);
        }
        !is_full
    }
}

#[cfg(test)]
mod tests {
    use cepa_common::world::steady;

    use super::*;
    use crate::front::{Marks, Origin, Protocol};

    fn key(client: u32, token: Option<usize>) -> IsolationKey {
        let token = token.map(|token| token.to_string().into_bytes());
        IsolationKey {
            marks: Marks {
                credentials: None,
                tokens: [token, None],
            },
            within: None,
            protocol: Protocol::HttpForward,
            client: Origin::Uid(client),
            listener: 0,
        }
    }

    #[test]
    fn an_application_has_few_keys_by_fields_and_keeps_those_that_it_uses() {
        let (keys, start) = (FieldKeys::default(), steady::now());
        let mut admitted = (0..100).filter(|n| keys.admits(&key(1, Some(*n)), start));
        assert_eq!(admitted.by_ref().count(), OF_ORIGIN);
        assert!(keys.admits(&key(1, None), start), "no key at all");
        assert!(
            keys.admits(&key(1, Some(0)), start + LIFE / 2),
            "one in use"
        );
        // Others have their own, as far as there are any.
        let others = (2..100).flat_map(|client| (0..100).map(move |n| key(client, Some(n))));
        let admitted = others.filter(|key| keys.admits(key, start)).count();
        assert_eq!(admitted, MOST - OF_ORIGIN);
        // What was not used for a while makes room, and what was does not.
        let later = start + LIFE;
        let admitted = (0..100).filter(|n| keys.admits(&key(1, Some(*n)), later));
        assert_eq!(admitted.count(), OF_ORIGIN);
        assert_eq!(lock(&keys.0).len(), OF_ORIGIN);
    }
}
