//! How many connections this relay accepts at once, in all and from each address (S23).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use cepa_common::sync::lock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::events::ConnectionBound;

/// Counts the connections that are open, in all and by address.
#[derive(Clone)]
pub(crate) struct LinkAdmission {
    all: Arc<Semaphore>,
    by_address: Arc<Mutex<HashMap<IpAddr, u32>>>,
}

/// The place of one connection; gives the place back when dropped.
pub(crate) struct LinkPlace {
    _permit: OwnedSemaphorePermit,
    address: IpAddr,
    by_address: Arc<Mutex<HashMap<IpAddr, u32>>>,
}

impl Drop for LinkPlace {
    fn drop(&mut self) {
        let mut counts = lock(&self.by_address);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

impl LinkAdmission {
    /// An admission of `connections` at once.
    pub(crate) fn new(connections: u32) -> Self {
        let all = Arc::new(Semaphore::new(connections as usize));
        Self {
            all,
            by_address: Arc::default(),
        }
    }

    /// Takes a place for a connection from `address`, of which `per_address` may be open at once.
    ///
    /// # Errors
    /// The bound that has been reached.
    pub(crate) fn admit(
        &self,
        address: IpAddr,
        per_address: u32,
    ) -> Result<LinkPlace, ConnectionBound> {
        let permit = self.all.clone().try_acquire_owned();
        let permit = permit.map_err(|_| ConnectionBound::All)?;
        let mut counts = lock(&self.by_address);
        let held = counts.get(&address).copied().unwrap_or_default();
        // Loopback is one's own machine, where a whole network has one address.
        if held >= per_address && !address.is_loopback() {
            return Err(ConnectionBound::Address);
        }
        counts.insert(address, held + 1);
        Ok(LinkPlace {
            _permit: permit,
            address,
            by_address: self.by_address.clone(),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn all_together_and_each_address_are_bounded() {
        let admission = LinkAdmission::new(3);
        let first = admission.admit(address(1), 2).unwrap();
        let _second = admission.admit(address(1), 2).unwrap();
        assert_eq!(
            admission.admit(address(1), 2).err(),
            Some(ConnectionBound::Address)
        );
        let _third = admission.admit(address(2), 2).unwrap();
        assert_eq!(
            admission.admit(address(3), 2).err(),
            Some(ConnectionBound::All)
        );
        drop(first);
        assert!(admission.admit(address(1), 2).is_ok());
    }

    #[test]
    fn places_leave_nothing_behind() {
        let admission = LinkAdmission::new(8);
        for n in 0..100 {
            drop(admission.admit(address(n), 1).unwrap());
            // Who is kept out leaves nothing either.
            assert_eq!(
                admission.admit(address(n), 0).err(),
                Some(ConnectionBound::Address)
            );
        }
        assert!(lock(&admission.by_address).is_empty());
        assert_eq!(admission.all.available_permits(), 8);
    }

    #[test]
    fn ones_own_machine_has_no_bound_of_its_own() {
        let admission = LinkAdmission::new(3);
        let loopback: IpAddr = [127, 0, 0, 1].into();
        let places: Vec<_> = (0..3).map(|_| admission.admit(loopback, 1)).collect();
        assert!(places.iter().all(Result::is_ok));
        assert_eq!(
            admission.admit(loopback, 1).err(),
            Some(ConnectionBound::All)
        );
    }
}
