//! What a relay says of itself, and the words in which others speak of it (docs/protocol.md, 6.6 and 6.7).

mod address;
pub(super) mod descriptor;
mod descriptor_cache;
mod flags;
mod key_files;
mod policy;
mod summary;

pub use address::{AddressClass, classify, is_dialable};
pub(super) use descriptor::MAX_ENTRIES;
pub use descriptor::{
    FamilyMembership, KeyCert, MAX_DESCRIPTOR_BYTES, RelayDescriptor, SignedDescriptor,
};
pub use descriptor_cache::DescriptorCache;
pub use flags::Flags;
pub use key_files::{FamilyFile, KeyFileError, LinkCertificate, MAX_KEY_FILE_BYTES};
pub use policy::{ExitPolicy, PolicyError, Rule};
pub use summary::{PolicySummary, PortRange};
