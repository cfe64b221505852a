//! The system calls that a build may not make.
//!
//! A deny list: builds run compilers, test suites and interpreters of every kind, and an allow list would fail one of
//! them a day. It takes away what reaches deep into the kernel and what could undo the sandbox. Three small filters,
//! because each has one answer: what is refused with `EPERM`, what is answered `ENOSYS` so that libraries fall back, and
//! the x32 calls, which would go round the numbers of the other two.

/// Compiled filters, each in the form that bubblewrap reads; empty where the architecture is not known to us.
pub fn filters() -> &'static [Vec<u8>] {
    static FILTERS: std::sync::OnceLock<Vec<Vec<u8>>> = std::sync::OnceLock::new();
    FILTERS.get_or_init(compiled::filters)
}

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
mod compiled {
    use std::collections::BTreeMap;

    use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule};

    /// Refused with `EPERM`.
    const FORBIDDEN: &[i64] = &[
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_bpf,
        libc::SYS_userfaultfd,
        libc::SYS_perf_event_open,
        libc::SYS_kexec_load,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_move_mount,
        libc::SYS_open_tree,
        libc::SYS_fsopen,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_fspick,
        libc::SYS_mount_setattr,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_acct,
        libc::SYS_quotactl,
        libc::SYS_syslog,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_adjtimex,
        libc::SYS_clock_adjtime,
        libc::SYS_open_by_handle_at,
        libc::SYS_name_to_handle_at,
        libc::SYS_lookup_dcookie,
        libc::SYS_fanotify_init,
        libc::SYS_nfsservctl,
        libc::SYS_vhangup,
    ];

    /// Not of this machine, as far as a build can see: libraries have another way.
    const ABSENT: &[i64] = &[
        // Its flags lie in memory, where a filter cannot look; glibc falls back to clone.
        libc::SYS_clone3,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
    ];

    /// Terminal requests that put characters into the terminal's input, as if the owner had typed them.
    #[allow(clippy::unnecessary_cast)] // their type is the C library's affair
    const TERMINAL_REQUESTS: &[u64] = &[libc::TIOCSTI as u64, libc::TIOCLINUX as u64];

    /// New namespaces by clone.
    const NAMESPACES: &[i32] = &[
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
    ];

    /// Families of sockets that a build has a use for; all others reach kernel code that is seldom looked at.
    const SOCKETS: &[i32] = &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

    fn rule(conditions: Vec<(u8, SeccompCmpOp, u64)>) -> Option<SeccompRule> {
        let conditions: Result<Vec<_>, _> = conditions
            .into_iter()
            .map(|(argument, operator, value)| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value))
            .collect();
        SeccompRule::new(conditions.ok()?).ok()
    }

    fn filter(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) -> Option<Vec<u8>> {
        let arch = std::env::consts::ARCH.try_into().ok()?;
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno.unsigned_abs()), arch).ok()?;
        let program: BpfProgram = filter.try_into().ok()?;
        Some(bytes(&program))
    }

    /// `struct sock_filter` as the kernel has it, in this machine's byte order.
    fn bytes(program: &[seccompiler::sock_filter]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(program.len() * 8);
        for instruction in program {
            bytes.extend_from_slice(&instruction.code.to_ne_bytes());
            bytes.extend_from_slice(&[instruction.jt, instruction.jf]);
            bytes.extend_from_slice(&instruction.k.to_ne_bytes());
        }
        bytes
    }

    pub(super) fn filters() -> Vec<Vec<u8>> {
        let mut forbidden: BTreeMap<i64, Vec<SeccompRule>> = FORBIDDEN.iter().map(|&call| (call, Vec::new())).collect();
        let masked = |flag: &i32| {
            let flag = u64::from(flag.unsigned_abs());
            rule(vec![(0, SeccompCmpOp::MaskedEq(flag), flag)])
        };
        forbidden.insert(libc::SYS_clone, NAMESPACES.iter().filter_map(masked).collect());
        let request = |&number: &u64| rule(vec![(1, SeccompCmpOp::Eq, number)]);
        forbidden.insert(libc::SYS_ioctl, TERMINAL_REQUESTS.iter().filter_map(request).collect());
        let other_socket = SOCKETS.iter().map(|family| (0, SeccompCmpOp::Ne, u64::from(family.unsigned_abs()))).collect();
        forbidden.insert(libc::SYS_socket, rule(other_socket).into_iter().collect());
        let absent = ABSENT.iter().map(|&call| (call, Vec::new())).collect();
        let mut filters: Vec<Vec<u8>> = [filter(forbidden, libc::EPERM), filter(absent, libc::ENOSYS)].into_iter().flatten().collect();
        if cfg!(target_arch = "x86_64") {
            filters.push(no_x32());
        }
        filters
    }

    /// x32 calls have bit 30 set in their number and the same architecture as the others.
    fn no_x32() -> Vec<u8> {
        const LOAD_NUMBER: u16 = 0x20;
        const JUMP_IF_GREATER_OR_EQUAL: u16 = 0x35;
        const RETURN: u16 = 0x06;
        let instruction = |code, jt, jf, k| seccompiler::sock_filter { code, jt, jf, k };
        bytes(&[
            instruction(LOAD_NUMBER, 0, 0, 0),
            instruction(JUMP_IF_GREATER_OR_EQUAL, 0, 1, 0x4000_0000),
            instruction(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs()),
            instruction(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        ])
    }

    #[cfg(test)]
    mod tests {
        /// A filter that failed to compile would silently be left out.
        #[test]
        fn every_filter_compiles() {
            let filters = super::filters();
            assert_eq!(filters.len(), if cfg!(target_arch = "x86_64") { 3 } else { 2 });
            assert!(filters.iter().all(|bytes| bytes.len() % 8 == 0 && !bytes.is_empty()));
        }
    }
}

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))))]
mod compiled {
    pub(super) fn filters() -> Vec<Vec<u8>> {
        Vec::new()
    }
}
