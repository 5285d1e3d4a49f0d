//! What the command may not do: get more rights, and make what a network namespace does not hold back.

use std::collections::BTreeMap;
use std::io;

use nix::libc;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, set_capabilities, set_no_new_privs,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use crate::error::ExecError;

/// What root keeps: enough to install packages and to become another user of the namespace.
const OF_ROOT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID);

/// Kinds of sockets that a network namespace holds back, or that have nothing to do with a network. Another reaches
/// past it: vsock, for one, a virtual machine's host.
const FAMILIES: [i32; 5] = [
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
    libc::AF_PACKET,
];

/// io_uring makes sockets without a call that a filter sees. Keys have the kernel, and programs that it starts outside,
/// look names up.
const REFUSED: [libc::c_long; 4] = [
    libc::SYS_io_uring_setup,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
];

/// On x86-64 the same calls have second numbers, of a third kind of programs (x32).
const X32: i64 = 0x4000_0000;

/// Confines this process, which is about to become the command, and ends it when the process `outer` ends.
pub(crate) fn confine(is_root: bool, outer: u32) -> Result<(), ExecError> {
    let failed = |error: io::Error| {
        ExecError::new(
            format!("cannot give up the rights that the command must not have: {error}"),
            "the kernel must have seccomp filters (CONFIG_SECCOMP_FILTER)",
        )
    };
    let kept = if is_root {
        OF_ROOT
    } else {
        CapabilitySet::empty()
    };
    drop_capabilities(kept).map_err(failed)?;
    // The kernel forgets this when rights change.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| failed(error.into()))?;
    let parent = getppid().map(|parent| parent.as_raw_nonzero().get());
    if parent.and_then(|parent| u32::try_from(parent).ok()) != Some(outer) {
        return Err(failed(io::Error::other("cepa exec has ended meanwhile")));
    }
    for filter in filters().map_err(failed)? {
        seccompiler::apply_filter(&filter)
            .map_err(|error| failed(io::Error::other(error.to_string())))?;
    }
    Ok(())
}

/// From here on no program gets more rights by being executed. So the bounding set may stay: without what a file's own
/// rights name, as those of ping do, the kernel does not execute the file at all.
fn drop_capabilities(kept: CapabilitySet) -> io::Result<()> {
    set_no_new_privs(true)?;
    clear_ambient_capability_set()?;
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, sets)?)
}

/// The filters of system calls: of sockets, and of what is refused altogether. Code of another kind of processor, as of
/// 32 bits, ends its process.
fn filters() -> io::Result<Vec<BpfProgram>> {
    let other = |error: &dyn std::fmt::Display| io::Error::other(error.to_string());
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| other(&error))?;
    let numbers = |call: libc::c_long| {
        let is_x86 = cfg!(target_arch = "x86_64");
        std::iter::once(call).chain(is_x86.then_some(call | X32))
    };
    let make = |rules, errno: i32| {
        let refuse = SeccompAction::Errno(errno.unsigned_abs());
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch);
        filter
            .and_then(BpfProgram::try_from)
            .map_err(|error| other(&error))
    };
    let is_none_of: Result<Vec<_>, _> = FAMILIES
        .iter()
        .map(|family| {
            let family = u64::from(family.unsigned_abs());
            SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, family)
        })
        .collect();
    let rule = is_none_of
        .and_then(SeccompRule::new)
        .map_err(|error| other(&error))?;
    let sockets: BTreeMap<_, _> = [libc::SYS_socket, libc::SYS_socketpair]
        .into_iter()
        .flat_map(numbers)
        .map(|number| (number, vec![rule.clone()]))
        .collect();
    let refused: BTreeMap<_, _> = REFUSED
        .into_iter()
        .flat_map(numbers)
        .map(|number| (number, Vec::new()))
        .collect();
    Ok(vec![
        make(sockets, libc::EAFNOSUPPORT)?,
        make(refused, libc::ENOSYS)?,
    ])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_can_be_made() {
        assert_eq!(filters().unwrap().len(), 2);
    }

    #[test]
    fn root_keeps_no_right_over_networks_or_namespaces() {
        for right in [
            CapabilitySet::NET_ADMIN,
            CapabilitySet::NET_RAW,
            CapabilitySet::SYS_ADMIN,
            CapabilitySet::SYS_PTRACE,
            CapabilitySet::DAC_READ_SEARCH,
            CapabilitySet::MKNOD,
        ] {
            assert!(!OF_ROOT.contains(right));
        }
    }
}
