//! Torch files made to run code, to exhaust memory, or to reach beyond themselves, by name.

use crate::support::*;
use Answer::*;

/// What reading must answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// An error that says this.
    Says(&'static str),
    /// The same, once as many objects are made as there may be.
    SaysLate(&'static str),
    /// A file without tensors: what it asks for is not looked into, let alone run.
    Inert,
}

/// One attack by its name.
pub(crate) type Case = (String, Vec<u8>, Answer);

fn command() -> Code {
    text("echo this ran")
}

fn shell() -> Code {
    global("os", "system")
}

fn in_archive(code: &[u8]) -> Vec<u8> {
    Archive::new(pickle(code), &[vec![1; 64]]).bytes()
}

/// Callables that exploits have used, by module and name.
const CALLABLES: [(&str, &str, &str); 32] = [
    ("os", "system", "`os.system`"),
    ("posix", "system", "`posix.system`"),
    ("nt", "system", "`nt.system`"),
    ("os", "popen", "`os.popen`"),
    ("subprocess", "Popen", "`subprocess.Popen`"),
    ("subprocess", "check_output", "`subprocess.check_output`"),
    ("builtins", "eval", "`builtins.eval`"),
    ("builtins", "exec", "`builtins.exec`"),
    ("builtins", "getattr", "`builtins.getattr`"),
    ("builtins", "__import__", "`builtins.__import__`"),
    ("builtins", "compile", "`builtins.compile`"),
    ("builtins", "open", "`builtins.open`"),
    ("__builtin__", "eval", "`__builtin__.eval`"),
    ("importlib", "import_module", "`importlib.import_module`"),
    ("runpy", "run_path", "`runpy.run_path`"),
    ("pty", "spawn", "`pty.spawn`"),
    ("webbrowser", "open", "`webbrowser.open`"),
    ("pickle", "loads", "`pickle.loads`"),
    ("_pickle", "loads", "`_pickle.loads`"),
    ("functools", "partial", "`functools.partial`"),
    ("operator", "attrgetter", "`operator.attrgetter`"),
    ("operator", "methodcaller", "`operator.methodcaller`"),
    ("shutil", "rmtree", "`shutil.rmtree`"),
    ("ctypes", "CDLL", "`ctypes.CDLL`"),
    ("timeit", "timeit", "`timeit.timeit`"),
    ("torch", "load", "`torch.load`"),
    ("torch.hub", "load", "`torch.hub.load`"),
    ("torch.jit", "load", "`torch.jit.load`"),
    ("torch.storage", "_load_from_bytes", "`torch.storage._load_from_bytes`"),
    ("torch._utils", "_import_dotted_name", "`torch._utils._import_dotted_name`"),
    ("numpy", "load", "`numpy.load`"),
    ("lightning.pytorch", "os.system", "`lightning.pytorch.os.system`"),
];

/// Ways to have something called, and pickles of other ill will, in any container.
fn programs() -> Vec<(&'static str, Code, Answer)> {
    let system = Says("`os.system`");
    let namespace = || [global("argparse", "Namespace"), b")\x81".to_vec()].concat();
    let harmless = |arguments: &[Code]| call(global("collections", "OrderedDict"), arguments);
    let huge = u64::MAX.to_le_bytes();
    let long = "n".repeat(1_000);
    let memo: Vec<u8> = (0..600_000_u32).flat_map(|place| [&b"r"[..], &place.to_le_bytes()].concat()).collect();
    let often = [text(&"k".repeat(1_000)), b"q\x01".to_vec()].concat();
    let often = [&b"]("[..], &often, b"]q\x02(", &b"h\x01".repeat(1_000), b"e", &b"h\x02".repeat(60), b"e"].concat();
    vec![
        ("named, not called", shell(), system),
        ("a call within a call's arguments", harmless(&[call(shell(), &[command()])]), system),
        ("a call in a dictionary's value", dict(&[("fine", int(1)), ("not", call(shell(), &[command()]))]), system),
        ("a call in a dictionary's key", [b"}".to_vec(), call(shell(), &[command()]), b"Ns".to_vec()].concat(), system),
        (
            "a call in a list in a tuple",
            tuple(&[[b"]".to_vec(), call(shell(), &[command()]), b"a".to_vec()].concat()]),
            system,
        ),
        ("a call in a set", [b"\x8f(".to_vec(), call(shell(), &[command()]), b"\x90".to_vec()].concat(), system),
        ("a call whose result is thrown away", [call(shell(), &[command()]), b"0N".to_vec()].concat(), system),
        ("NEWOBJ", [shell(), tuple(&[command()]), b"\x81".to_vec()].concat(), system),
        ("NEWOBJ_EX", [shell(), tuple(&[command()]), b"}\x92".to_vec()].concat(), system),
        ("INST", [b"(".to_vec(), command(), b"ios\nsystem\n".to_vec()].concat(), system),
        ("OBJ", [b"(".to_vec(), shell(), command(), b"o".to_vec()].concat(), system),
        (
            "OBJ of an allowed class",
            [b"(".to_vec(), global("argparse", "Namespace"), b"o".to_vec()].concat(),
            Says("`argparse.Namespace`"),
        ),
        ("STACK_GLOBAL", call([text("os"), text("system"), b"\x93".to_vec()].concat(), &[command()]), system),
        (
            "STACK_GLOBAL of texts in the memo",
            call(
                [text("system"), b"q\x000".to_vec(), text("os"), b"q\x010h\x01h\x00\x93".to_vec()].concat(),
                &[command()],
            ),
            system,
        ),
        ("protocol 0", b"(S'echo this ran'\np0\nI1\nL2L\nF0.5\nV\\u0041\nios\nsystem\n".to_vec(), system),
        (
            "BUILD with a __setstate__",
            [namespace(), dict(&[("__setstate__", shell())]), b"b".to_vec()].concat(),
            system,
        ),
        (
            "BUILD of a class itself",
            [global("argparse", "Namespace"), dict(&[("__init__", text("x"))]), b"b".to_vec()].concat(),
            Says("`argparse.Namespace`"),
        ),
        (
            "copyreg._reconstructor",
            call(global("copyreg", "_reconstructor"), &[shell(), global("builtins", "object"), b"N".to_vec()]),
            system,
        ),
        (
            "a storage class that is called",
            call(global("torch", "FloatStorage"), &[int(1 << 40)]),
            Says("`torch.FloatStorage`"),
        ),
        (
            "a persistent id with a foreign class",
            [tuple(&[text("storage"), shell(), text("0"), text("cpu"), int(1)]), b"Q".to_vec()].concat(),
            system,
        ),
        (
            "a rebuilt tensor of a foreign function",
            call(
                global("torch._tensor", "_rebuild_from_type_v2"),
                &[shell(), global("torch", "Tensor"), tuple(&[command()]), dict(&[])],
            ),
            system,
        ),
        (
            "a numpy scalar of objects",
            call(
                global("numpy.core.multiarray", "scalar"),
                &[call(global("numpy", "dtype"), &[text("O8")]), text("cos\nsystem\n(X\x04\0\0\0echotR.")],
            ),
            Inert,
        ),
        ("escape codes in a name", global("os\x1b[2J", "system"), Says("os\\u{1b}[2J.system")),
        ("a call of a text", call(text("os.system"), &[command()]), Says("no function")),
        (
            "an allowed function with foreign arguments",
            call(global("torch._utils", "_rebuild_tensor_v2"), &[command()]),
            Says("arguments that torch does not give"),
        ),
        ("extension code of one byte", b"\x82\x01".to_vec(), Says("instruction 0x82")),
        ("extension code of two bytes", b"\x83\x01\0".to_vec(), Says("instruction 0x83")),
        ("extension code of four bytes", b"\x84\x01\0\0\0".to_vec(), Says("instruction 0x84")),
        ("NEXT_BUFFER", b"\x97".to_vec(), Says("instruction 0x97")),
        ("READONLY_BUFFER", b"N\x98".to_vec(), Says("instruction 0x98")),
        ("no instruction", b"\xff".to_vec(), Says("instruction 0xff")),
        ("PERSID", b"P../../etc/passwd\n".to_vec(), Says("instruction 0x50")),
        ("protocol 255", b"\x80\xff".to_vec(), Says("newer than 5")),
        ("a persistent id that is a number", b"K\x01Q".to_vec(), Says("not that of a storage")),
        (
            "a persistent id that is a path",
            [text("../../etc/passwd"), b"Q".to_vec()].concat(),
            Says("not that of a storage"),
        ),
        ("a persistent id that is nothing", b"NQ".to_vec(), Says("not that of a storage")),
        ("a persistent id that is an empty tuple", b")Q".to_vec(), Says("not that of a storage")),
        ("a memo that is read before it is written", b"h\x07".to_vec(), Says("memo is empty")),
        ("a stack that is empty", b"0".to_vec(), Says("not there")),
        ("a dictionary with half a pair", b"}N(Nu".to_vec(), Says("cannot hold")),
        ("a text that is none", b"X\x02\0\0\0\xff\xfe".to_vec(), Says("not UTF-8")),
        ("LONG4 of 4 GiB", [&b"\x8b"[..], &[0xff; 4]].concat(), Says("cut short")),
        ("BINUNICODE of 4 GiB", [&b"X"[..], &[0xff; 4]].concat(), Says("cut short")),
        ("BINUNICODE8 of 16 EiB", [&b"\x8d"[..], &huge].concat(), Says("cut short")),
        ("BINBYTES8 of 16 EiB", [&b"\x8e"[..], &huge].concat(), Says("cut short")),
        ("BYTEARRAY8 of 16 EiB", [&b"\x96"[..], &huge].concat(), Says("cut short")),
        ("FRAME of 16 EiB", [&b"\x95"[..], &huge, b"N"].concat(), Inert),
        ("LONG_BINPUT far out", b"Nr\xff\xff\xff\xff".to_vec(), Inert),
        ("billion laughs", [&b"]q\0"[..], &b"]h\0ah\0aq\0".repeat(60)].concat(), Says("values that can be reached")),
        ("a list within itself", b"]q\0h\0a".to_vec(), Says("containers within containers")),
        ("deep nesting", [&b")"[..], &b"\x85".repeat(400_000)].concat(), SaysLate("containers within containers")),
        ("a high stack", b"]".repeat(70_000), SaysLate("values on the stack")),
        ("many marks", b"(".repeat(70_000), SaysLate("nested marks")),
        ("many objects", b"]0".repeat(600_000), SaysLate("objects")),
        ("many members", [&b"]"[..], &b"Na".repeat(1_100_000)].concat(), SaysLate("members of containers")),
        ("many places in the memo", [&b"N"[..], &memo].concat(), SaysLate("places in the memo")),
        ("many instructions", b"N0".repeat(8_400_000), Says("instructions")),
        ("a long name", dict(&[(&long, dict(&[(&long, int(1))]))]), Says("bytes in one name")),
        ("a class with a long name", global(&long, "x"), Says("characters in one name")),
        ("one long text in many names", often, SaysLate("bytes of names and texts")),
        ("names that are one name", dict(&[("a.b", int(1)), ("a", dict(&[("b", int(2))]))]), Says("there twice")),
    ]
}

/// Tensors that claim what is not theirs, by length of the storage, offset, sizes and strides.
fn tensors() -> Vec<(&'static str, Code)> {
    let of = |len, offset, sizes: &[i64], strides: &[i64]| {
        dict(&[("w", tensor(storage("FloatStorage", "0", len), offset, sizes, strides))])
    };
    let (most, many) = (i64::MAX, 1 << 40);
    vec![
        ("a storage longer than its data", of(17, 0, &[1], &[1])),
        ("a storage of 32 EiB", of(most, 0, &[1], &[1])),
        ("a storage of negative length", of(-1, 0, &[1], &[1])),
        ("an offset behind the storage", of(16, 16, &[1], &[1])),
        ("a negative offset", of(16, -1, &[1], &[1])),
        ("an offset that overflows", of(16, most, &[1], &[1])),
        ("a size beyond the storage", of(16, 0, &[17], &[1])),
        ("a size beyond the named part of the storage", of(8, 0, &[9], &[1])),
        ("a negative size", of(16, 0, &[-1], &[1])),
        ("a negative stride", of(16, 0, &[2], &[-1])),
        ("a stride that overflows", of(16, 0, &[2], &[most])),
        ("one element 2^40 times", of(16, 0, &[many], &[0])),
        ("sizes whose product overflows", of(16, 0, &[most, most], &[0, 0])),
        ("a size that only a zero hides", of(16, 0, &[0, most], &[1, 1])),
        ("fewer strides than sizes", of(16, 0, &[4], &[])),
    ]
}

/// Storages by keys that would be paths if anything were unpacked.
const KEYS: [(&str, &str); 5] = [
    ("a storage that is not there", "7"),
    ("a storage above the archive's folder", "../data.pkl"),
    ("a storage far above", "../../../../etc/passwd"),
    ("a storage with an absolute path", "/etc/passwd"),
    ("a storage on a drive", "C:\\Windows\\win.ini"),
];

fn plain() -> Archive {
    let code = dict(&[("w", tensor(storage("FloatStorage", "0", 16), 0, &[16], &[1]))]);
    Archive::new(pickle(&code), &[(0..64).collect()])
}

/// Containers that lie.
fn containers() -> Vec<(&'static str, Vec<u8>, Answer)> {
    let lying = |lies: &[(usize, usize, &[u8])]| {
        let lies = lies.iter().map(|(entry, place, bytes)| (*entry, *place, bytes.to_vec())).collect();
        Archive { lies, ..plain() }.bytes()
    };
    let named = |name: &str| {
        let mut archive = Archive::new(pickle(&dict(&[("step", int(1))])), &[]);
        archive.entries.push((name.to_owned(), b"this is written nowhere".to_vec()));
        archive.bytes()
    };
    let mut twice = plain();
    twice.entries.push(twice.entries[1].clone());
    let entries = |count| (0..count).map(|index| (format!("archive/data/{index}"), Vec::new())).collect();
    let without_stop = Archive::new(b"\x80\x02}".to_vec(), &[]).bytes();
    let mut code = plain();
    code.entries.push(("archive/code/__torch__.py".to_owned(), b"x".to_vec()));
    code.lies = vec![(2, METHOD, vec![8])];
    let keys = |keys: &[&str]| {
        pickle(&[b"](".to_vec(), keys.iter().flat_map(|key| text(key)).collect(), b"e".to_vec()].concat())
    };
    let in_stream =
        |rest: Vec<u8>| stream(&dict(&[("w", tensor(storage("FloatStorage", "k", 4), 0, &[2], &[1]))]), &rest);
    let data = |len: i64| [&len.to_le_bytes()[..], &[0; 16]].concat();
    let file = |name: &'static str, kind| tar_of(&[("pickle", b'0', pickle(b"N")), (name, kind, pickle(b"K\0"))]);
    let count = |count: i64| tar_of(&[("pickle", b'0', pickle(b"N")), ("storages", b'0', pickle(&int(count)))]);
    let mut long = file("storages", b'0');
    let sized = long[512 * 2..][124..136].to_vec();
    long[512 * 2..][124..136].copy_from_slice(b"77777777777\0");
    let difference: i32 =
        long[512 * 2..][124..136].iter().zip(&sized).map(|(a, b)| i32::from(*a) - i32::from(*b)).sum();
    let sum = i32::from_str_radix(std::str::from_utf8(&long[512 * 2..][148..154]).unwrap(), 8).unwrap() + difference;
    long[512 * 2..][148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
    vec![
        ("a pickle without its end", without_stop, Says("cut short")),
        ("an empty pickle", Archive::new(Vec::new(), &[]).bytes(), Says("cut short")),
        (
            "no pickle",
            Archive { entries: vec![("archive/other".into(), vec![1])], ..plain() }.bytes(),
            Says("data.pkl"),
        ),
        (
            "a deflated entry of 4 GiB",
            lying(&[(1, METHOD, &[8]), (1, LEN, &[0xfe; 4])]),
            Says("archive/data/0: is compressed"),
        ),
        (
            "a stored entry of two lengths",
            lying(&[(1, LEN, &[0xfe; 4])]),
            Says("archive/data/0: has two different lengths"),
        ),
        (
            "a stored entry of 4 GiB",
            lying(&[(1, LEN, &[0xfe; 4]), (1, COMPRESSED, &[0xfe; 4])]),
            Says("archive/data/0: reaches beyond"),
        ),
        ("an entry into the next one", overlapping(), Says("lies within another entry")),
        ("two entries in one place", nested(), Says("lies within another entry")),
        ("an encrypted entry", lying(&[(1, FLAGS, &[1])]), Says("archive/data/0: is encrypted")),
        ("an entry beyond the file", lying(&[(1, HEADER, &[0xfe; 4])]), Says("beyond the file")),
        ("an entry of another name in its place", lying(&[(1, NAME, b"A")]), Says("differs from")),
        ("two entries of one name", twice.bytes(), Says("in the archive twice")),
        (
            "70 000 entries",
            Archive { entries: entries(70_000), zip64: true, ..plain() }.bytes(),
            Says("entries in its archive"),
        ),
        (
            "65 535 entries of a count that means more",
            Archive { entries: entries(65_535), ..plain() }.bytes(),
            SaysLate("64-bit"),
        ),
        ("a program of TorchScript", code.bytes(), Says("TorchScript")),
        ("an entry above the folder", named("../../escaped"), Inert),
        ("an entry with an absolute path", named("/tmp/escaped"), Inert),
        ("an entry on a drive", named("C:\\escaped"), Inert),
        (
            "a stream whose storage is cut short",
            in_stream([keys(&["k"]), data(i64::MAX)].concat()),
            Says("storage `k`"),
        ),
        (
            "a stream whose storage has a negative length",
            in_stream([keys(&["k"]), data(-4)].concat()),
            Says("storage `k`"),
        ),
        (
            "a stream with a storage of nobody",
            in_stream([keys(&["../other"]), data(4)].concat()),
            Says("storage `../other`"),
        ),
        (
            "a stream with a storage twice",
            in_stream([keys(&["k", "k"]), data(4), data(4)].concat()),
            Says("storage `k`"),
        ),
        ("a stream without its storages", in_stream(keys(&[])), Says("storage `k`")),
        ("a tar archive with 2^62 storages", count(1 << 62), Says("larger than any")),
        ("a tar archive with minus one storages", count(-1), Says("larger than any")),
        ("a tar archive with a link", file("storages", b'2'), Says("storages: is no regular file")),
        ("a tar archive with a path", file("../storages", b'0'), Says("storages: is missing")),
        ("a tar archive with a file twice", file("pickle", b'0'), Says("pickle: is in the archive twice")),
        ("a tar archive with a file of 8 GiB", long, Says("cut short")),
    ]
}

/// The second entry's data reach into the third's header.
fn overlapping() -> Vec<u8> {
    let mut archive = plain();
    archive.entries.push(("archive/data/1".into(), vec![7; 8]));
    archive.lies = [LEN, COMPRESSED].map(|place| (1, place, vec![80])).into();
    archive.bytes()
}

/// The second entry's record is turned to its namesake within the third.
fn nested() -> Vec<u8> {
    let inner = Archive::new(Vec::new(), &[vec![7; 8]]).bytes();
    let mut archive = plain();
    archive.entries[1].1 = vec![7; 8];
    archive.entries.push(("archive/data/1".into(), inner));
    let bytes = archive.bytes();
    let is_namesake = |header: &[u8]| header.starts_with(b"PK\x03\x04") && header.ends_with(b"archive/data/0");
    let place = bytes.windows(30 + 14).rposition(is_namesake).unwrap();
    archive.lies = vec![(1, HEADER, (place as u32).to_le_bytes().to_vec())];
    archive.bytes()
}

/// Every attack; programs in each of the three containers.
pub(crate) fn table() -> Vec<Case> {
    let called = CALLABLES.iter().map(|(module, name, says)| {
        (format!("a call of {module}.{name}"), call(global(module, name), &[command()]), Says(says))
    });
    let programs: Vec<(String, Code, Answer)> =
        called.chain(programs().into_iter().map(|(name, code, answer)| (name.to_owned(), code, answer))).collect();
    let mut cases = Vec::new();
    for (name, code, answer) in programs {
        cases.push((format!("{name}, in a tar archive"), tar(&code), answer));
        cases.push((format!("{name}, in a stream"), stream(&code, &pickle(b"]")), answer));
        cases.push((name, in_archive(&code), answer));
    }
    let tensors = tensors().into_iter();
    cases.extend(tensors.map(|(name, code)| (name.to_owned(), in_archive(&code), Says("`w`"))));
    for (name, key) in KEYS {
        let code = dict(&[("w", tensor(storage("FloatStorage", key, 1), 0, &[1], &[1]))]);
        cases.push((name.to_owned(), in_archive(&code), Says("storage `")));
    }
    cases.extend(containers().into_iter().map(|(name, bytes, answer)| (name.to_owned(), bytes, answer)));
    cases
}
