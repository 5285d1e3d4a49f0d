//! What a relay says of itself, and the words that votes and the consensus use for relays too (docs/protocol.md, 6.4,
//! 6.6 and 6.20).
//! A relay signs a [`RelayDescriptor`]; an authority reads it back as a [`SignedDescriptor`], and a [`DescriptorCache`]
//! spares the authority the work for a descriptor that it knows. A descriptor names addresses ([`is_dialable`] says
//! which of them may be dialled), [`Flags`], the [`PolicySummary`] of an [`ExitPolicy`], and what keys off line have
//! signed: a [`KeyCert`] and a [`FamilyMembership`], which are carried to the relay as a [`LinkCertificate`] and a
//! [`FamilyFile`].
//!
//! Callers are relays, authorities, and the rooms of votes and of the consensus. Absent: whether a relay can be reached
//! and how good it is; authorities find that out (`relay/src/authority`).

mod address;
pub(super) mod descriptor;
mod descriptor_cache;
mod flags;
mod key_files;
mod policy;
mod ports;
mod summary;

pub use address::{AddressClass, Site, classify, is_dialable};
pub(super) use descriptor::MAX_ENTRIES;
pub use descriptor::{
    Away, FamilyMembership, KeyCert, MAX_DESCRIPTOR_BYTES, RelayDescriptor, SignedDescriptor,
    is_contact,
};
pub use descriptor_cache::DescriptorCache;
pub use flags::Flags;
pub use key_files::{FamilyFile, KeyFileError, LinkCertificate, MAX_KEY_FILE_BYTES};
pub use policy::{ExitPolicy, PolicyError, PolicyRule};
pub use ports::{PORT_LISTS, PortList};
pub use summary::{IpVersion, PolicySummary, PortRange, Transport};
