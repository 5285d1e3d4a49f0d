//! What a relay says about itself (docs/protocol.md, 6.6).

use std::net::SocketAddr;

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use super::address::is_dialable;
use super::flags::Flags;
use super::summary::PolicySummary;
use crate::dir::signed::{
    self, CLOCK_SKEW_SECS, Digest, DocError, Envelope, Kind, Signature, UnixSecs,
};
use crate::ids::{NetworkId, RelayId};
use crate::onion::Suite;

/// The most relays that one vote or consensus lists.
pub(in crate::dir) const MAX_ENTRIES: usize = 131_072;
/// Size of the largest descriptor, in bytes.
pub const MAX_DESCRIPTOR_BYTES: usize = 4 * 1024;
/// The most addresses of one relay.
const MAX_ADDRESSES: usize = 8;
/// Length of the longest nickname, in bytes.
const MAX_NICKNAME_BYTES: usize = 20;
/// Length of the longest version, in bytes.
const MAX_VERSION_BYTES: usize = 32;
/// Length of the longest contact, in bytes.
const MAX_CONTACT_BYTES: usize = 128;

/// An identity's certificate that a key speaks for it on links and signs its descriptors, so that the identity can stay
/// off line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyCert {
    /// The key certified (Ed25519).
    pub key: [u8; 32],
    /// The certificate is not valid from this time on.
    pub not_after: UnixSecs,
    /// Signature of the identity over identity, key and expiry.
    signature: Signature,
}

impl KeyCert {
    /// Certifies `key` until `not_after`.
    pub fn new(
        identity: &SigningKey,
        network: &NetworkId,
        key: [u8; 32],
        not_after: UnixSecs,
    ) -> Self {
        let body = Self::body(
            &RelayId(identity.verifying_key().to_bytes()),
            &key,
            not_after,
        );
        let signature = Signature::sign(identity, Kind::KeyCert, network, &body);
        Self {
            key,
            not_after,
            signature,
        }
    }

    /// Makes a certificate from the content of a file. [`KeyCert::verify`] says whether it is valid.
    pub(in crate::dir) fn from_parts(
        key: [u8; 32],
        not_after: UnixSecs,
        signature: Signature,
    ) -> Self {
        Self {
            key,
            not_after,
            signature,
        }
    }

    /// The identity's signature.
    pub(in crate::dir) fn signature(&self) -> &Signature {
        &self.signature
    }

    fn body(identity: &RelayId, key: &[u8; 32], not_after: UnixSecs) -> Vec<u8> {
        [identity.0.as_slice(), key, &not_after.to_be_bytes()].concat()
    }

    /// Checks that `identity` made the certificate for this network. Whether it has expired is not checked.
    ///
    /// # Errors
    /// [`DocError::BadSignature`] if the identity did not.
    pub fn verify(&self, identity: &RelayId, network: &NetworkId) -> Result<(), DocError> {
        let body = Self::body(identity, &self.key, self.not_after);
        self.signature
            .verify(&identity.0, Kind::KeyCert, network, &body)
    }
}

/// A family key's signature that a relay belongs to the family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FamilyMembership {
    /// The family's key (Ed25519): the family's name.
    pub key: [u8; 32],
    /// The family key's signature over the relay's identity.
    signature: Signature,
}

impl FamilyMembership {
    /// Makes `identity` a member of the family of this key.
    pub fn new(family: &SigningKey, network: &NetworkId, identity: &RelayId) -> Self {
        let signature = Signature::sign(family, Kind::Family, network, &identity.0);
        Self {
            key: family.verifying_key().to_bytes(),
            signature,
        }
    }

    /// Makes a membership from the content of a file. [`FamilyMembership::verify`] says whether it is valid.
    pub(in crate::dir) fn from_parts(key: [u8; 32], signature: Signature) -> Self {
        Self { key, signature }
    }

    /// The family key's signature.
    pub(in crate::dir) fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Checks that the family key made the membership for `identity` in this network.
    ///
    /// # Errors
    /// [`DocError::BadSignature`] if the family key did not.
    pub fn verify(&self, identity: &RelayId, network: &NetworkId) -> Result<(), DocError> {
        self.signature
            .verify(&self.key, Kind::Family, network, &identity.0)
    }
}

/// A relay's description of itself. The fields are in the order of their encoding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayDescriptor {
    /// Identity of the relay.
    pub identity: RelayId,
    /// Certificate of the key for links and descriptors; `None` if that key is the identity itself.
    pub key_cert: Option<KeyCert>,
    /// The relay's key for circuit handshakes (X25519).
    pub onion_key: [u8; 32],
    /// The suite of layers made with that key.
    #[serde(with = "suite_code")]
    pub suite: Suite,
    /// Addresses to dial, the preferred one first.
    pub addresses: Vec<SocketAddr>,
    /// When the relay signed the descriptor.
    pub published: UnixSecs,
    /// What the relay claims to carry (KiB a second).
    pub bandwidth: u32,
    /// The flags that the relay is willing to have, which can be `GUARD`, `HSDIR` and `MEET` of [`Flags`] and no
    /// others.
    pub offers: Flags,
    /// Summary of the relay's exit policy for TCP streams.
    pub policy: PolicySummary,
    /// Summary of the relay's exit policy for UDP datagrams.
    pub udp: PolicySummary,
    /// The family that the relay belongs to.
    pub family: Option<FamilyMembership>,
    /// Name for people: 1 to 20 letters, digits, `-` and `_`.
    pub nickname: String,
    /// Version of the relay's program: 1 to 32 letters, digits and `.-_+`.
    pub version: String,
    /// How people reach the relay's operator: 0 to 128 printable ASCII characters.
    pub contact: String,
    /// When the relay rests because its allowance of traffic is used up.
    pub away: Option<Away>,
}

/// The time in which a relay takes no circuits because its owner's allowance of traffic is used up (hibernation,
/// 6.6.10); `from < until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Away {
    /// The relay rests from this time on.
    pub from: UnixSecs,
    /// The relay takes circuits again from this time on.
    pub until: UnixSecs,
}

impl Away {
    /// Does the relay rest at a time from `first` on and before `end`?
    pub fn overlaps(&self, first: UnixSecs, end: UnixSecs) -> bool {
        self.from < end && first < self.until
    }
}

impl RelayDescriptor {
    /// The key that the relay proves on links and signs descriptors with.
    pub fn link_key(&self) -> [u8; 32] {
        self.key_cert
            .as_ref()
            .map_or(self.identity.0, |cert| cert.key)
    }

    /// Encodes and signs the descriptor. `key` is the key whose public half is [`RelayDescriptor::link_key`].
    ///
    /// # Errors
    /// [`DocError`] if a field breaks a rule of 6.6, or if `key` is another key.
    pub fn sign(
        &self,
        network: &NetworkId,
        key: &SigningKey,
    ) -> Result<SignedDescriptor, DocError> {
        let body = signed::encode(self)?;
        let bytes = signed::sign_single(Kind::Descriptor, network, &body, key)?;
        SignedDescriptor::parse_and_verify(&bytes, network)
    }

    fn validate(&self, network: &NetworkId) -> Result<(), DocError> {
        let rule = |holds: bool, text| {
            if holds {
                Ok(())
            } else {
                Err(DocError::Content(text))
            }
        };
        validate_addresses(&self.addresses)?;
        validate_names(&self.nickname, &self.version)?;
        rule(
            (Flags::GUARD | Flags::HSDIR | Flags::MEET).contains(self.offers),
            "offers an unknown role",
        )?;
        self.policy.validate()?;
        self.udp.validate()?;
        rule(is_contact(&self.contact), "contact is not valid")?;
        rule(
            self.away.is_none_or(|away| away.from < away.until),
            "rests for no time",
        )?;
        if let Some(cert) = &self.key_cert {
            // One meaning has one encoding, so a certificate of the identity itself is left out.
            rule(cert.key != self.identity.0, "identity certifies itself")?;
            cert.verify(&self.identity, network)?;
        }
        if let Some(family) = &self.family {
            family.verify(&self.identity, network)?;
        }
        Ok(())
    }
}

/// Checks the addresses of a relay: 1 to 8, no repeats, none that can never be dialled (6.6.4).
pub(in crate::dir) fn validate_addresses(addresses: &[SocketAddr]) -> Result<(), DocError> {
    let count = (1..=MAX_ADDRESSES).contains(&addresses.len());
    // The network's parameter says whether private addresses are allowed; the format allows them.
    let dialable = addresses.iter().all(|address| is_dialable(*address, true));
    let distinct = (1..addresses.len()).all(|n| !addresses[..n].contains(&addresses[n]));
    if count && dialable && distinct {
        Ok(())
    } else {
        Err(DocError::Content("addresses are not valid"))
    }
}

/// Is this text fit to be shown as an operator's contact (6.6.9)?
pub fn is_contact(text: &str) -> bool {
    text.len() <= MAX_CONTACT_BYTES
        && text.bytes().all(|b| (b' '..=b'~').contains(&b))
        && text.trim() == text
}

/// Checks the nickname and version of a relay (6.6.7).
pub(in crate::dir) fn validate_names(nickname: &str, version: &str) -> Result<(), DocError> {
    let fits = |text: &str, most: usize, extra: &[u8]| {
        (1..=most).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || extra.contains(&b))
    };
    if fits(nickname, MAX_NICKNAME_BYTES, b"-_") && fits(version, MAX_VERSION_BYTES, b".-_+") {
        Ok(())
    } else {
        Err(DocError::Content("nickname or version is not valid"))
    }
}

/// Encodes a suite as its number on the wire.
pub(in crate::dir) mod suite_code {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::onion::Suite;

    pub(in crate::dir) fn serialize<S: Serializer>(
        suite: &Suite,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_u8(suite.code())
    }

    pub(in crate::dir) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Suite, D::Error> {
        let code = u8::deserialize(from)?;
        Suite::from_code(code).ok_or_else(|| D::Error::custom("unknown suite"))
    }
}

/// A descriptor whose signatures were verified, with the bytes as they were received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedDescriptor {
    descriptor: RelayDescriptor,
    bytes: Vec<u8>,
    digest: Digest,
}

impl SignedDescriptor {
    /// Verifies and decodes a descriptor.
    ///
    /// # Errors
    /// [`DocError`], for anything that 6.1, 6.2 and 6.6 do not allow.
    pub fn parse_and_verify(bytes: &[u8], network: &NetworkId) -> Result<Self, DocError> {
        let envelope = Envelope::parse(bytes, Kind::Descriptor, MAX_DESCRIPTOR_BYTES)?;
        let signer = envelope.verify_single(network)?;
        let descriptor: RelayDescriptor = signed::decode(envelope.body)?;
        if descriptor.link_key() != signer {
            return Err(DocError::UnknownSigner);
        }
        descriptor.validate(network)?;
        Ok(Self {
            descriptor,
            bytes: bytes.to_vec(),
            digest: envelope.digest(network),
        })
    }

    /// What the relay says.
    pub fn descriptor(&self) -> &RelayDescriptor {
        &self.descriptor
    }

    /// The document as received.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Digest of the document.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// May the descriptor be listed now? The descriptor must not be from the future nor older than `max_age_secs`, and
    /// its key must be certified until `until` at least.
    pub fn is_current(&self, now: UnixSecs, max_age_secs: u64, until: UnixSecs) -> bool {
        let published = self.descriptor.published;
        published <= now.saturating_add(CLOCK_SKEW_SECS)
            && published.saturating_add(max_age_secs) > now
            && self
                .descriptor
                .key_cert
                .as_ref()
                .is_none_or(|cert| cert.not_after > until)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testkit::{self, link_key};

    const NETWORK: NetworkId = NetworkId([7; 32]);

    fn sign(descriptor: &RelayDescriptor) -> Result<SignedDescriptor, DocError> {
        descriptor.sign(&NETWORK, &link_key(1))
    }

    #[test]
    fn round_trip() {
        let descriptor = testkit::descriptor(1);
        let signed = sign(&descriptor).unwrap();
        assert_eq!(signed.descriptor(), &descriptor);
        let again = SignedDescriptor::parse_and_verify(signed.bytes(), &NETWORK).unwrap();
        assert_eq!(again, signed);
        let other = SignedDescriptor::parse_and_verify(signed.bytes(), &NetworkId([8; 32]));
        assert_eq!(other, Err(DocError::BadSignature));
    }

    #[test]
    fn an_identity_can_stay_off_line() {
        let mut descriptor = testkit::descriptor(2);
        let key = link_key(1).verifying_key().to_bytes();
        descriptor.key_cert = Some(KeyCert::new(&link_key(2), &NETWORK, key, 2_000));
        descriptor.published = 1_000;
        let signed = sign(&descriptor).unwrap();
        assert_eq!(signed.descriptor().link_key(), key);
        assert!(signed.is_current(1_000, 100, 1_999));
        assert!(!signed.is_current(1_000, 100, 2_000));
        // A certificate by another identity, and one whose expiry was edited, are refused.
        let mut forged = descriptor.clone();
        forged.key_cert = Some(KeyCert::new(&link_key(3), &NETWORK, key, 2_000));
        assert_eq!(sign(&forged), Err(DocError::BadSignature));
        let mut longer = descriptor.clone();
        longer.key_cert.as_mut().unwrap().not_after = 9_000;
        assert_eq!(sign(&longer), Err(DocError::BadSignature));
        descriptor.key_cert = None;
        assert_eq!(sign(&descriptor), Err(DocError::UnknownSigner));
        let mut itself = testkit::descriptor(1);
        itself.key_cert = Some(KeyCert::new(&link_key(1), &NETWORK, key, 2_000));
        assert_eq!(
            sign(&itself),
            Err(DocError::Content("identity certifies itself"))
        );
    }

    #[test]
    fn families_must_agree() {
        let mut descriptor = testkit::descriptor(1);
        descriptor.family = Some(FamilyMembership::new(
            &link_key(9),
            &NETWORK,
            &descriptor.identity,
        ));
        assert!(sign(&descriptor).is_ok());
        descriptor.family = Some(FamilyMembership::new(
            &link_key(9),
            &NETWORK,
            &testkit::identity(2),
        ));
        assert_eq!(sign(&descriptor), Err(DocError::BadSignature));
    }

    #[test]
    fn every_refusal_of_a_field() {
        let refused = |edit: fn(&mut RelayDescriptor)| {
            let mut descriptor = testkit::descriptor(1);
            edit(&mut descriptor);
            assert!(matches!(sign(&descriptor), Err(DocError::Content(_))));
        };
        refused(|d| d.addresses.clear());
        refused(|d| d.addresses.push(d.addresses[0]));
        refused(|d| d.addresses = (1..=9).map(|n| ([127, 0, 0, 1], n).into()).collect());
        refused(|d| d.addresses[0].set_port(0));
        refused(|d| d.addresses[0].set_ip([0, 0, 0, 0].into()));
        refused(|d| d.addresses[0].set_ip([255, 255, 255, 255].into()));
        refused(|d| d.addresses[0].set_ip([224, 0, 0, 5].into()));
        refused(|d| d.addresses[0].set_ip("::ffff:1.2.3.4".parse().unwrap()));
        refused(|d| d.nickname.clear());
        refused(|d| d.nickname = "a".repeat(21));
        refused(|d| d.nickname = "a b".to_owned());
        refused(|d| d.version = "1\n".to_owned());
        refused(|d| d.version = String::new());
        refused(|d| d.offers = Flags::EXIT);
        refused(|d| d.contact = "a".repeat(129));
        refused(|d| d.contact = "line\nbreak".to_owned());
        refused(|d| d.contact = "gr\u{fc}n@example.org".to_owned());
        refused(|d| d.contact = " operator@example.org".to_owned());
        refused(|d| d.away = Some(Away { from: 9, until: 9 }));
    }

    #[test]
    fn what_later_capabilities_need_is_kept() {
        let mut descriptor = testkit::descriptor(1);
        descriptor.offers = Flags::GUARD | Flags::HSDIR | Flags::MEET;
        descriptor.udp = descriptor.policy.clone();
        descriptor.contact = "a".repeat(128);
        descriptor.away = Some(Away {
            from: 9,
            until: u64::MAX,
        });
        let signed = sign(&descriptor).unwrap();
        assert_eq!(signed.descriptor(), &descriptor);
    }

    #[test]
    fn a_rest_overlaps_half_open_times() {
        let away = Away {
            from: 10,
            until: 20,
        };
        let cases = [
            (0, 10, false),
            (0, 11, true),
            (19, 30, true),
            (20, 30, false),
        ];
        for (first, end, expected) in cases {
            assert_eq!(away.overlaps(first, end), expected, "{first} to {end}");
        }
    }

    #[test]
    fn times() {
        let mut descriptor = testkit::descriptor(1);
        descriptor.published = 10_000;
        let signed = sign(&descriptor).unwrap();
        assert!(signed.is_current(10_000, 50, u64::MAX));
        assert!(signed.is_current(10_049, 50, 0));
        assert!(!signed.is_current(10_050, 50, 0));
        assert!(signed.is_current(10_000 - CLOCK_SKEW_SECS, 50, 0));
        assert!(!signed.is_current(9_999 - CLOCK_SKEW_SECS, 50, 0));
        assert!(signed.is_current(0, u64::MAX, 0) == (10_000 <= CLOCK_SKEW_SECS));
    }

    #[test]
    fn oversized_is_refused_before_anything_else() {
        let bytes = vec![0; MAX_DESCRIPTOR_BYTES + 1];
        assert!(matches!(
            SignedDescriptor::parse_and_verify(&bytes, &NETWORK),
            Err(DocError::TooLarge { .. })
        ));
    }

    proptest! {
        #[test]
        fn signed_garbage_never_panics(
            edits in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..4),
        ) {
            // A hostile relay can sign anything, so the decoder behind the signature must withstand anything too.
            let mut body = signed::encode(&testkit::descriptor(1)).unwrap();
            for (at, byte) in edits {
                let at = at % body.len();
                body[at] = byte;
            }
            let bytes =
                signed::sign_single(Kind::Descriptor, &NETWORK, &body, &link_key(1)).unwrap();
            if let Ok(signed) = SignedDescriptor::parse_and_verify(&bytes, &NETWORK) {
                prop_assert_eq!(signed::encode(signed.descriptor()).unwrap(), body);
            }
        }
    }
}
