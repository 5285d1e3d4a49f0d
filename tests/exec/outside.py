"""A program outside, as a resolver or a desktop has them: whoever reaches one of its sockets has it send a packet.

Arguments: a directory for sockets, and the address to send to. Prints its process when it listens.
"""
import os, socket, sys, threading

dir, target = sys.argv[1], sys.argv[2]
os.umask(0)
os.chdir(dir)


def leak():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"leak", (target, 9))


def serve(s):
    while True:
        program, _ = s.accept()
        program.recv(10)
        leak()


def hear(s):
    while True:
        s.recv(10)
        leak()


names = [f"{dir}/stream", "relative", f"{dir}/temporary", "/run/cepa-test.sock", f"/tmp/cepa-test-{os.getpid()}.sock",
         f"\0cepa-test-{os.getpid()}"]
for name in names:
    s = socket.socket(socket.AF_UNIX)
    s.bind(name)
    s.listen()
    threading.Thread(target=serve, args=(s,), daemon=True).start()
# As ssh does with a connection that it shares.
os.link("temporary", "kept-under-another-name")
os.unlink("temporary")
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(f"{dir}/datagram")
threading.Thread(target=hear, args=(s,), daemon=True).start()
print(os.getpid(), flush=True)
sys.stdin.read()
for name in ["/run/cepa-test.sock", f"/tmp/cepa-test-{os.getpid()}.sock"]:
    os.unlink(name)
