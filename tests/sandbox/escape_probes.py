"""Attempts to get out of the sandbox, or to take more than it gives.

Each is the body of a function that returns something true when it got what it was after; any
exception means that it did not. `GIVEN` holds what the machine outside has laid out: see `bait`.
"""

from __future__ import annotations

PRELUDE = """
import ctypes, errno, fcntl, json, mmap, os, platform, resource, signal, socket, stat, struct
import sys, threading, time
GIVEN = json.loads(input())
libc = ctypes.CDLL(None, use_errno=True)
ARM = platform.machine() == "aarch64"

def call(x86, arm, *arguments):
    number = arm if ARM else x86
    passed = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    found = libc.syscall(ctypes.c_long(number), *passed)
    if found < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return True

def ok(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return True

def spawned(start):
    pid = start()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return True

def probe():
"""

CODA = """
try:
    won = probe()
except (Exception, MemoryError):
    won = False
if won:
    os.write(1, b"WON")
"""

FILES = {
    "reads a secret": "return open(GIVEN['secret']).read()",
    "reads it by a long way up": "return open('../' * 20 + GIVEN['secret'][1:]).read()",
    "reads it through a link": "os.symlink(GIVEN['secret'], 'l'); return open('l').read()",
    "links it into its directory": "os.link(GIVEN['secret'], 'hard'); return open('hard').read()",
    "lists /etc": "return os.listdir('/etc')",
    "reads /etc/passwd": "return open('/etc/passwd').read()",
    "lists the root": "return os.listdir('/')",
    "lists homes": "return os.listdir('/home') + ['x']",
    "goes to the root": "os.chdir('/'); return os.listdir('.')",
    "writes beside the secret": "return open(GIVEN['folder'] + '/mark', 'w').write('x')",
    "changes the secret": "return open(GIVEN['shared'], 'a').write('x')",
    "empties a file": "os.truncate(GIVEN['shared'], 0); return True",
    "removes a file": "os.unlink(GIVEN['victim']); return True",
    "renames a file": "os.rename(GIVEN['victim'], GIVEN['victim'] + '2'); return True",
    "makes a directory": "os.mkdir(GIVEN['folder'] + '/made'); return True",
    "changes the interpreter": "return open(os.__file__, 'a').write('#')",
    "writes to the root": "return open('/mark', 'w').write('x')",
    "makes a device": "os.mknod('d', stat.S_IFCHR | 0o600, os.makedev(1, 1)); "
    "return open('d', 'rb')",
    "makes a FIFO outside": "os.mkfifo(GIVEN['folder'] + '/fifo'); return True",
    "opens the disk": "return open('/dev/vda', 'rb') or open('/dev/sda', 'rb')",
    "opens kernel messages": "return open('/dev/kmsg', 'rb')",
    "opens by handle": "return call(304, 265, -100, ctypes.create_string_buffer(64), 0)",
    "marks a file": "os.setxattr(GIVEN['shared'], 'user.mark', b'x'); return True",
    "watches a directory": "fd = libc.inotify_init(); ok(fd); "
    "return ok(libc.inotify_add_watch(fd, GIVEN['folder'].encode(), 0x100))",
}

SURROUNDINGS = {
    "sees the environment": "return os.environ[GIVEN['variable']]",
    "sees it through libc": "libc.getenv.restype = ctypes.c_char_p; "
    "return libc.getenv(GIVEN['variable'].encode())",
    "reads its status in /proc": "return open('/proc/self/status').read()",
    "reads the kernel's settings": "return open('/proc/sys/kernel/osrelease').read()",
    "lists processes": "return [n for n in os.listdir('/proc') if n.isdigit()]",
    "reads /sys": "return os.listdir('/sys')",
    "has inherited descriptors": "return [fd for fd in range(4, 300) if not fails(os.fstat, fd)]",
    "reads an inherited descriptor": "return any(not fails(os.pread, fd, 1, 0) "
    "for fd in range(4, 300))",
    "writes to an inherited channel": "return any(not fails(os.write, fd, b'') "
    "for fd in range(4, 300))",
}

NETWORK = {
    "connects by TCP": "s = socket.socket(); s.settimeout(1); "
    "s.connect(('127.0.0.1', GIVEN['port'])); return s.recv(5)",
    "listens by TCP": "s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); return True",
    "sends by UDP": "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
    "return s.sendto(b'x', ('127.0.0.1', GIVEN['port']))",
    "makes an IPv6 socket": "return socket.socket(socket.AF_INET6)",
    "connects to an abstract name": "s = socket.socket(socket.AF_UNIX); "
    "s.connect(chr(0) + GIVEN['abstract']); return True",
    "connects to a local path": "s = socket.socket(socket.AF_UNIX); "
    "s.connect(GIVEN['local']); return True",
    "makes a pair of sockets": "return socket.socketpair()",
    "asks the kernel by netlink": "return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
    "makes a raw socket": "return socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "makes a packet socket": "return socket.socket(17, socket.SOCK_RAW, 3)",
    "talks to the host's machine": "return socket.socket(40, socket.SOCK_STREAM)",
}

PROCESSES = {
    "signals the machine's process": "os.kill(GIVEN['pid'], 0); return True",
    "signals its parent": "os.kill(os.getppid(), 0); return True",
    "signals its group": "os.kill(0, 0); return True",
    "signals all": "os.kill(-1, 0); return True",
    "signals the launcher": "os.kill(GIVEN['launcher'], 0); return True",
    "traces its parent": "return call(101, 117, 16, os.getppid(), 0, 0)",
    "offers itself to be traced": "return call(101, 117, 0, 0, 0, 0)",
    "opens its parent": "return os.pidfd_open(os.getppid())",
    "reads its parent's memory": "b = ctypes.create_string_buffer(8); "
    "v = struct.pack('PP', ctypes.addressof(b), 8); w = struct.pack('PP', id(None), 8); "
    "return call(310, 270, os.getppid(), v, 1, w, 1, 0)",
    "limits its parent": "resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE); return True",
    "pins its parent": "os.sched_setaffinity(os.getppid(), {0}); return True",
    "slows its parent": "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19); return True",
    "compares kernel objects": "return call(312, 272, os.getpid(), os.getppid(), 2, 0, 0)",
    "has signals sent for it": "fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid()); return True",
    "leaves its session": "os.setsid(); return True",
}

NAMESPACES = {
    "makes a user namespace": "return ok(libc.unshare(0x10000000))",
    "makes a mount namespace": "return ok(libc.unshare(0x00020000))",
    "makes a network namespace": "return ok(libc.unshare(0x40000000))",
    "clones into a namespace": "return spawned(lambda: libc.syscall("
    "ctypes.c_long(220 if ARM else 56), ctypes.c_long(0x10000000 | 17), 0, 0, 0, 0))",
    "joins another's": "return ok(libc.setns(os.open('/proc/1/ns/net', os.O_RDONLY), 0))",
    "mounts": "return ok(libc.mount(b'none', b'/tmp', b'tmpfs', 0, None))",
    "remounts writable": "return ok(libc.mount(b'none', b'/', None, 32 | 4096, None))",
    "unmounts": "return ok(libc.umount2(b'/tmp', 2))",
    "changes its root": "os.chroot('.'); return True",
    "makes a file system": "return call(430, 430, b'tmpfs', 0)",
}

KERNEL = {
    "loads a BPF program": "return call(321, 280, 0, ctypes.create_string_buffer(128), 128)",
    "makes an I/O ring": "return call(425, 425, 4, ctypes.create_string_buffer(256))",
    "counts events": "b = ctypes.create_string_buffer(struct.pack('II', 1, 128), 128); "
    "return call(298, 241, b, 0, -1, -1, 0)",
    "adds a key": "return call(248, 217, b'user', b'probe', b'x', 1, -3)",
    "searches keys": "return call(250, 219, 0, -3, 1)",
    "handles page faults": "return call(323, 282, 1)",
    "makes a file in memory": "return os.memfd_create('x')",
    "shares memory": "return call(29, 194, 0, 4096, 0o1600)",
    "makes a message queue": "return call(68, 186, 0, 0o1600)",
    "opens a named queue": "return call(240, 180, b'/probe', 0o102, 0o600, 0)",
    "changes its personality": "return call(135, 92, 0x0040000)",
    "reads the kernel's log": "return call(103, 116, 3, ctypes.create_string_buffer(64), 64)",
    "watches everything": "return call(300, 262, 0x200, 0)",
    "names the machine": "return call(170, 161, b'probe', 5)",
    "sets the clock": "time.clock_settime(time.CLOCK_REALTIME, time.time()); return True",
    "loads a module": "return call(175, 105, b'', 0, b'')",
    "locks memory": "return ok(libc.mlockall(1))",
    "types into the terminal": "fcntl.ioctl(0, 0x5412, b'x'); return True",
    "makes a timer": "return call(222, 107, 0, 0, ctypes.create_string_buffer(8))",
}

PRIVILEGES = {
    "becomes root": "os.setuid(0); return True",
    "becomes another": "os.setresuid(1234, 1234, 1234); return True",
    "changes groups": "os.setgroups([0]); return True",
    "takes capabilities": "h = struct.pack('Ii', 0x20080522, 0); d = b'\\xff' * 24; "
    "return ok(libc.capset(h, d))",
    "uses a capability": "os.chown('.', 0, 0); return True",
    "raises its limits": "resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40)); return True",
    "runs in real time": "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)); return True",
    "lets no parent end it": "return ok(libc.prctl(1, 0, 0, 0, 0))",
    "loosens its filter": "return ok(libc.prctl(22, 0, 0, 0, 0))",
}

EXECUTION = {
    "forks": "return spawned(os.fork)",
    "forks by vfork's relative": "return spawned(lambda: libc.syscall("
    "ctypes.c_long(220 if ARM else 56), ctypes.c_long(17), 0, 0, 0, 0))",
    "clones by clone3": "a = ctypes.create_string_buffer("
    "struct.pack('8Q', 0, 0, 0, 0, 17, 0, 0, 0)); "
    "return spawned(lambda: libc.syscall(ctypes.c_long(435), a, ctypes.c_long(64)))",
    "runs a shell": "import subprocess; return subprocess.run(['/bin/sh', '-c', 'true'])",
    "runs the interpreter": "import subprocess; "
    "return subprocess.run([sys.executable, '-S', '-c', '']).returncode == 0",
    "becomes a shell": "os.execv('/bin/sh', ['sh', '-c', 'printf WON'])",
    "becomes its own program": "open('p', 'w').write('#!/bin/sh\\nprintf WON'); "
    "os.chmod('p', 0o700); "
    "os.execv('./p', ['p'])",
    "spawns": "return os.posix_spawn('/bin/true', ['true'], {})",
    "leaves a daemon behind": "return left_behind()",
}

FLOODS = {
    "takes memory": "return bytearray(GIVEN['memory'])",
    "maps memory": "m = mmap.mmap(-1, GIVEN['memory']); return m",
    "maps memory in small pieces": "k = [mmap.mmap(-1, 1 << 20) for _ in "
    "range(GIVEN['memory'] >> 20)]; return k",
    "fills the disk": "f = open('full', 'wb'); "
    "[f.write(b'x' * (1 << 20)) for _ in range((GIVEN['disk'] >> 20) + 1)]; f.flush(); return True",
    "fills the disk with many files": "[open(f'p{i}', 'wb').write(b'x' * (1 << 19)) "
    "for i in range((GIVEN['disk'] >> 18))]; return True",
    "makes a file with a hole": "f = open('hole', 'wb'); f.truncate(GIVEN['disk'] + 1); "
    "f.seek(GIVEN['disk']); f.write(b'x'); f.flush(); return True",
    "makes many files": "[open(f'f{i}', 'w').close() "
    "for i in range(GIVEN['files'] + 1)]; return True",
    "makes many directories": "[os.mkdir(f'd{i}') for i in range(GIVEN['files'] + 1)]; return True",
    "opens many files": "k = [os.open('/dev/null', os.O_RDONLY) "
    "for _ in range(GIVEN['open_files'] + 1)]; return k",
    "makes many pipes": "k = [os.pipe() for _ in range(GIVEN['open_files'])]; return k",
    "starts many threads": "t = [threading.Thread(target=time.sleep, args=(1,), daemon=True) "
    "for _ in range(GIVEN['threads'] + 2)]; [x.start() for x in t]; return True",
    "starts many processes": "pids = [os.fork() or os._exit(time.sleep(1) or 0) "
    "for _ in range(30)]; return pids",
}

HELPERS = """
def fails(what, *arguments):
    try:
        what(*arguments)
        return False
    except OSError:
        return True

def left_behind():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(120)
        os._exit(0)
    time.sleep(0.2)
    return True
"""

PROBES: dict[str, str] = {
    **FILES, **SURROUNDINGS, **NETWORK, **PROCESSES, **NAMESPACES, **KERNEL, **PRIVILEGES,
    **EXECUTION, **FLOODS,
}  # fmt: skip


def program(body: str) -> str:
    """The program that makes one attempt; it writes WON when it got what it was after."""
    return HELPERS + PRELUDE + f"    {body}\n" + CODA


# These run on: the machine's side sees whether they were ended, and what they got until then.
ENDLESS = {
    "computes without end": "while True: pass",
    "ignores the end of its time": "import signal\n"
    "for s in set(signal.Signals) - {9, 19}: signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
    "sleeps without end": "import time\ntime.sleep(1000)",
    "writes without end": "while True: print('x' * 1000)",
    "complains without end": "import sys\nwhile True: sys.stderr.write('x' * 1000)",
    "waits on a thread": "import threading, time\n"
    "threading.Thread(target=time.sleep, args=(1000,)).start()",
    "goes on when it leaves": "import atexit\n@atexit.register\ndef on():\n    while True: pass",
    "computes in C": "10 ** 10 ** 9",
    "grows a list": "k = []\nwhile True: k.append(bytes(1 << 20))",
    "recurses without end": "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(): f()\nf()",
    "backtracks without end": "import re\nre.match('(a+)+$', 'a' * 64 + 'b')",
}
