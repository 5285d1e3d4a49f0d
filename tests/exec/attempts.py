"""Tries every way out of a machine's network, or of a namespace. Prints a line for each: its name, then what became of it.

Arguments: a directory with sockets of programs outside, the process of one of those, an address that every packet out
goes to, and "outside" where all that is possible is expected to work.
"""
import array, ctypes, errno, os, socket, struct, subprocess, sys, time

outside_dir, outside_pid, target, target6 = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
libc = ctypes.CDLL(None, use_errno=True)
X86 = os.uname().machine == "x86_64"


def attempt(name):
    def run(act):
        try:
            said = act()
        except OSError as error:
            said = errno.errorcode.get(error.errno, str(error))
        print(name, said if said is not None else "done", flush=True)
        return act
    return run


def call(number, *args):
    got = libc.syscall(ctypes.c_long(number), *[ctypes.c_void_p(arg) if isinstance(arg, int) else arg for arg in args])
    if got < 0:
        raise OSError(ctypes.get_errno(), "")
    return got


def ask(kind, path):
    """Asks a program outside to send a packet."""
    with socket.socket(socket.AF_UNIX, kind) as s:
        s.settimeout(5)
        s.connect(path)
        s.send(b"x")
        return "asked"


@attempt("udp")
def _():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"leak", (target, 9))


@attempt("udp6")
def _():
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
        s.sendto(b"leak", (target6, 9))


@attempt("udp-by-device")
def _():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"out\0")
        s.sendto(b"leak", (target, 9))


@attempt("multicast")
def _():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"leak", ("224.0.0.251", 5353))


@attempt("broadcast")
def _():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        s.sendto(b"leak", ("255.255.255.255", 9))


@attempt("raw")
def _():
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as s:
        s.sendto(b"\0\1\0\x09\0\x0c\0\0leak", (target, 0))


@attempt("raw6")
def _():
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, 17) as s:
        s.sendto(b"\0\1\0\x09\0\x0c\0\0leak", (target6, 0))


@attempt("packet")
def _():
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0x0008) as s:
        s.sendto(b"leak", ("out", 0x0008))


@attempt("vsock")
def _():
    socket.socket(40, socket.SOCK_STREAM).close()


@attempt("io_uring")
def _():
    os.close(call(425, 4, ctypes.create_string_buffer(120)))


@attempt("request_key")
def _():
    number = 249 if X86 else 218
    call(number, ctypes.c_char_p(b"dns_resolver"), ctypes.c_char_p(b"leak.example"), ctypes.c_char_p(b""), 0)


@attempt("x32-vsock")
def _():
    if not X86:
        raise OSError(errno.ENOSYS, "")
    os.close(call(0x40000000 | 41, 40, 1, 0))


for pid, whose in [(1, "init"), (outside_pid, "other")]:
    @attempt("setns-" + whose)
    def _():
        with open(f"/proc/{pid}/ns/net") as file:
            if libc.setns(file.fileno(), 0x40000000) < 0:
                raise OSError(ctypes.get_errno(), "")

    @attempt("ptrace-" + whose)
    def _():
        if libc.ptrace(0x4206, pid, None, None) < 0:
            raise OSError(ctypes.get_errno(), "")
        libc.ptrace(17, pid, None, None)

    @attempt("root-" + whose)
    def _():
        return ask(socket.SOCK_STREAM, f"/proc/{pid}/root/run/cepa-test.sock")

    @attempt("pidfd-" + whose)
    def _():
        pidfd = call(434, pid, 0)
        os.close(call(438, pidfd, 0, 0))


for name in ["stream", "datagram", "kept-under-another-name"]:
    @attempt("home-" + name)
    def _():
        return ask(socket.SOCK_DGRAM if name == "datagram" else socket.SOCK_STREAM, f"{outside_dir}/{name}")


@attempt("relative")
def _():
    os.chdir(outside_dir)
    return ask(socket.SOCK_STREAM, "relative")


@attempt("run")
def _():
    return ask(socket.SOCK_STREAM, "/run/cepa-test.sock")


@attempt("tmp")
def _():
    return ask(socket.SOCK_STREAM, f"/tmp/cepa-test-{outside_pid}.sock")


@attempt("abstract")
def _():
    return ask(socket.SOCK_STREAM, f"\0cepa-test-{outside_pid}")


@attempt("inherited")
def _():
    for fd in range(3, 20):
        try:
            os.fchdir(fd)
        except OSError:
            continue
        return ask(socket.SOCK_STREAM, "cepa-test.sock")
    raise OSError(errno.EBADF, "")


if len(sys.argv) > 5:
    # What follows would change the machine.
    sys.exit()


@attempt("netlink-link")
def _():
    # A veth pair, its other end in the namespace of process 1.
    done = subprocess.run(["ip", "link", "add", "leak", "type", "veth", "peer", "name", "leak2", "netns", "1"],
                          capture_output=True)
    return "done" if done.returncode == 0 else "refused"


@attempt("netlink-address")
def _():
    done = subprocess.run(["ip", "route", "replace", "default", "dev", "lo"], capture_output=True)
    return "done" if done.returncode == 0 else "refused"


@attempt("nested")
def _():
    # Namespaces inside this one: what is hidden stays hidden, and their root has nothing outside of them.
    script = f"""mount --make-rprivate / ; umount -l /run ; umount -l /tmp ; umount /run ; umount /tmp
        test -S /run/cepa-test.sock || test -S /tmp/cepa-test-{outside_pid}.sock && echo bare"""
    done = subprocess.run(["unshare", "-Urm", "sh", "-c", script], capture_output=True)
    return "bare" if b"bare" in done.stdout else "hidden"


@attempt("remount")
def _():
    for dir in ["/run", "/tmp"]:
        subprocess.run(["umount", "-l", dir], capture_output=True)
    return "bare" if os.path.exists("/run/cepa-test.sock") else "hidden"


@attempt("ping")
def _():
    return "refused" if subprocess.run(["ping", "-c1", "-W1", target], capture_output=True).returncode else "answered"


@attempt("ping6")
def _():
    return "refused" if subprocess.run(["ping", "-c1", "-W1", target6], capture_output=True).returncode else "answered"
