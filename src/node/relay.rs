//! The relay half of a node: what its configuration and its state directory mean in the relay library's words.

use cepa_common::dir::ExitPolicy;
use cepa_common::net::directory::NetworkHandle;
use cepa_common::onion::Suite;
use cepa_common::state::StateDir;
use cepa_common::world::World;
use cepa_common::world::random;
use cepa_relay as relay;

use super::error::AppError;
use super::files::DIRECTORY_ROOM;
use super::measure::Measurer;
use crate::config::{self, Config, SuiteChoice};

/// What the relay of `config` is started with; `None` if the node is no relay.
pub(super) fn relay_options(
    config: &Config,
    network: &NetworkHandle,
    state: &StateDir,
    measurer: Option<&Measurer>,
) -> Result<Option<relay::RelayOptions>, AppError> {
    let Some(settings) = &config.relay else {
        return Ok(None);
    };
    let mut rng = random::rng();
    let identity = crate::node::identity::of_relay(settings, &network.newest(), state, &mut rng)?;
    // A suite is a property of an onion key: another suite is another key (docs/protocol.md, 3.2).
    let onion_keys = relay::keys::ring::OnionKeyOptions {
        dir: state.room("keys")?,
        trust: state.trust(),
        suite: suite(settings.suite),
    };
    let authority = match &config.authority {
        Some(settings) => Some(authority_options(
            settings, network, state, &identity, measurer,
        )?),
        None => None,
    };
    let exit = match &config.exit {
        Some(settings) => Some(exit_options(settings)?),
        None => None,
    };
    Ok(Some(relay::RelayOptions {
        network: network.clone(),
        network_file: Some(config.network.file.clone()),
        identity,
        onion_keys,
        listen: settings.listen,
        advertised: settings.advertised(),
        nickname: settings.nickname.clone(),
        publish: settings.publish,
        claim_kib: claim_kib(settings),
        exit,
        authority,
        workers: relay::Workers::Threads(threads(config.limits.threads)),
        world: World::default(),
        cache_dir: state.room(DIRECTORY_ROOM)?,
        limits: limits(config),
    }))
}

/// How much of the machine the relay of `config` may take.
fn limits(config: &Config) -> relay::Limits {
    relay::Limits {
        memory_bytes: u64::from(config.limits.memory_mib) << 20,
        connections: config.limits.connections,
        bandwidth_kib: config.limits.bandwidth_kib,
        udp_associations: config.limits.udp_associations,
    }
}

/// What the running relay of `config` takes from its owner; `None` if the node is no relay.
pub(super) fn relay_settings(config: &Config) -> Result<Option<relay::Settings>, AppError> {
    let Some(settings) = &config.relay else {
        return Ok(None);
    };
    let exit = config.exit.as_ref().map(exit_options).transpose()?;
    let word = config.authority.as_ref().map(word).transpose()?;
    Ok(Some(relay::Settings {
        limits: limits(config),
        nickname: settings.nickname.clone(),
        claim_kib: claim_kib(settings),
        exit,
        word,
    }))
}

/// What the relay of `settings` claims to carry (KiB a second); `None` for what is usual.
fn claim_kib(settings: &config::Relay) -> Option<u32> {
    (settings.claim_kib > 0).then_some(settings.claim_kib)
}

/// What the operator of the authority of `settings` says.
fn word(settings: &config::Authority) -> Result<relay::authority::Word, AppError> {
    let rules = settings.operator_rules();
    let rules = rules.map_err(|error| AppError::Mismatch {
        what: error.to_string(),
        hint: "docs/config.md describes authority.reject and authority.middle_only",
    })?;
    Ok(relay::authority::Word {
        rules,
        mib_per_hour: settings.measure_mib_per_hour,
    })
}

/// An authority's options, once its keys are found to be those that the network names.
fn authority_options(
    settings: &config::Authority,
    network: &NetworkHandle,
    state: &StateDir,
    identity: &relay::keys::RelayIdentity,
    measurer: Option<&Measurer>,
) -> Result<relay::AuthorityOptions, AppError> {
    let file = relay::authority::VotingKeyFile {
        disk: state.disk().clone(),
        dir: state.room("keys")?,
        name: settings.signing_key.clone(),
        trust: state.trust(),
        network: network.network_id(),
    };
    let signing_key = file.load().map_err(|error| AppError::Mismatch {
        what: error.to_string(),
        hint: "`cepa authority certify` makes a key and its certificate; copy both into the directory of keys",
    })?;
    let mismatch = |what: &str| AppError::Mismatch {
        what: what.to_owned(),
        hint: "use the state directory that was made for this authority; `cepa network show` lists the keys that the \
               network names",
    };
    // Newcomers pin this key on links, so an authority's identity is its link key (docs/operator.md).
    if identity.certificate().is_some() {
        return Err(AppError::Mismatch {
            what: "an authority cannot keep the identity of its links off line".to_owned(),
            hint: "run the authority with the identity that `cepa authority init` made; what it can keep off line \
                   is its voting key",
        });
    }
    let identity = identity.identity();
    let revisions = network.revisions();
    // An authority that joins or leaves is in some of the revisions only.
    let known: Vec<_> = revisions
        .iter()
        .filter_map(|file| file.authority(&identity))
        .collect();
    let long_term = signing_key.authority();
    if known.is_empty() {
        return Err(mismatch(
            "the network does not know this authority's identity",
        ));
    }
    if known.iter().all(|ours| ours.signing_key != long_term) {
        return Err(mismatch(
            "the network does not know this authority's signing key",
        ));
    }
    Ok(relay::AuthorityOptions {
        signing_key,
        signing_key_file: Some(file),
        state_dir: state.room("authority")?,
        rules: word(settings)?.rules,
        measure: measurer.map(|measurer| measurer.options(settings.measure_mib_per_hour)),
    })
}

/// How the relay of `settings` lets streams and datagrams out.
pub(super) fn exit_options(settings: &config::Exit) -> Result<relay::ExitOptions, AppError> {
    let policy = |rules: &[String]| {
        settings
            .policy_of(rules)
            .map_err(|error| AppError::Mismatch {
                what: error.to_string(),
                hint: "docs/config.md describes the rules of exit.policy and exit.udp_policy",
            })
    };
    Ok(relay::ExitOptions {
        policy: policy(&settings.policy)?,
        udp_policy: match settings.udp {
            true => policy(&settings.udp_policy)?,
            false => ExitPolicy::reject_all(),
        },
        resolver: settings.resolver,
    })
}

/// The suite that `choice` means on this machine.
pub(super) fn suite(choice: SuiteChoice) -> Suite {
    match choice {
        SuiteChoice::ChaCha20Poly1305 => Suite::ChaCha20Poly1305,
        SuiteChoice::Aes256Gcm => Suite::Aes256Gcm,
        SuiteChoice::Auto if has_aes() => Suite::Aes256Gcm,
        SuiteChoice::Auto => Suite::ChaCha20Poly1305,
    }
}

/// Has the processor instructions for AES? Without them AES is slow and leaks by its timing.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// The number of threads that `setting` means on this machine.
fn threads(setting: usize) -> usize {
    match setting {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        some => some,
    }
}
