//! Pickles and archives made to run code, to exhaust memory, or to reach beyond the file.
#![allow(clippy::unwrap_used)]

mod support;

use ipa_formats::{PlainValue, TorchError, TorchIndex};
use support::*;

fn read(code: &[u8]) -> Result<TorchIndex, TorchError> {
    TorchIndex::new(&Archive::new(pickle(code), &[vec![1; 64]]).bytes())
}

fn refused(code: &[u8]) -> String {
    match read(code).unwrap_err() {
        TorchError::Refused { callable } => callable,
        other => panic!("{other}"),
    }
}

fn malformed(code: &[u8]) {
    let error = read(code).unwrap_err();
    assert!(matches!(error, TorchError::Malformed { .. }), "{code:?}: {error}");
}

fn limited(code: &[u8]) -> &'static str {
    match read(code).unwrap_err() {
        TorchError::Limit { what, .. } => what,
        other => panic!("{other}"),
    }
}

fn float_tensor(len: i64, offset: i64, sizes: &[i64], strides: &[i64]) -> Result<TorchIndex, TorchError> {
    read(&dict(&[("w", tensor(storage("FloatStorage", "0", len), offset, sizes, strides))]))
}

#[test]
fn calls_are_refused_by_name_however_they_are_spelled() {
    let shell = || global("os", "system");
    let command = || [text("echo this ran")];
    let stack_global = [text("os"), text("system"), b"\x93".to_vec()].concat();
    let spelled = [
        call(shell(), &command()),
        call(stack_global, &command()),
        [shell(), tuple(&command()), b"\x81".to_vec()].concat(),
        [shell(), tuple(&command()), b"}\x92".to_vec()].concat(),
        [b"(".to_vec(), text("echo this ran"), b"ios\nsystem\n".to_vec()].concat(),
        [b"(".to_vec(), shell(), text("echo this ran"), b"o".to_vec()].concat(),
        [b"(S'echo this ran'\np0\nI1\nL2L\nF0.5\nV\\u0041\nios\nsystem\n".to_vec()].concat(),
        shell(),
        dict(&[("fine", int(1)), ("not", call(shell(), &command()))]),
        [global("argparse", "Namespace"), b")\x81".to_vec(), dict(&[("x", shell())]), b"b".to_vec()].concat(),
    ];
    for code in spelled {
        assert_eq!(refused(&code), "os.system", "{code:?}");
    }
    assert_eq!(refused(&call(global("builtins", "eval"), &[text("1")])), "builtins.eval");
    assert_eq!(refused(&global("__builtin__", "eval")), "__builtin__.eval");
    assert_eq!(refused(&call(global("torch.hub", "load"), &[text("a/b")])), "torch.hub.load");
}

#[test]
fn even_allowed_classes_are_not_called_or_changed_freely() {
    assert_eq!(refused(&call(global("torch", "FloatStorage"), &[int(1 << 40)])), "torch.FloatStorage");
    assert_eq!(
        refused(&[b"(".to_vec(), global("argparse", "Namespace"), b"o".to_vec()].concat()),
        "argparse.Namespace"
    );
    let changed_class = [global("argparse", "Namespace"), dict(&[("__init__", text("x"))]), b"b".to_vec()].concat();
    assert_eq!(refused(&changed_class), "argparse.Namespace");
    malformed(&[b"]}b".to_vec()].concat());
    malformed(&call(text("os.system"), &[]));
    malformed(&call(global("torch._utils", "_rebuild_tensor_v2"), &[]));
    malformed(&call(global("torch._utils", "_rebuild_parameter"), &[text("x")]));
    malformed(&call(global("collections", "OrderedDict"), &[text("x")]));
    malformed(&call(
        global("torch._tensor", "_rebuild_from_type_v2"),
        &[global("torch", "device"), tuple(&[]), tuple(&[])],
    ));
}

#[test]
fn harmless_objects_are_read_as_nothing_but_their_class() {
    let namespace =
        [global("argparse", "Namespace"), b")\x81".to_vec(), dict(&[("a", int(1))]), b"b".to_vec()].concat();
    let index = read(&dict(&[("settings", namespace), ("kept", int(-5))])).unwrap();
    assert_eq!(index.values()["settings"], PlainValue::Opaque("argparse.Namespace".to_owned()));
    assert_eq!(index.values()["kept"], PlainValue::Int(-5));
    assert_eq!(index.values().len(), 2);
}

#[test]
fn tensors_wrapped_as_parameters_and_types_are_read() {
    let one = || tensor(storage("FloatStorage", "0", 16), 2, &[3], &[1]);
    let rebuilt = |function: &str, arguments: &[Code]| call(global("torch._utils", function), arguments);
    let ordered = || call(global("collections", "OrderedDict"), &[]);
    let arguments = tuple(&[
        storage("FloatStorage", "0", 16),
        int(2),
        tuple(&[int(3)]),
        tuple(&[int(1)]),
        b"\x89".to_vec(),
        ordered(),
    ]);
    let typed = [global("torch._utils", "_rebuild_tensor_v2"), global("torch", "Tensor"), arguments, dict(&[])];
    let pair = [text("x"), one()].concat();
    let wrapped = [
        rebuilt("_rebuild_parameter", &[one(), b"\x88".to_vec(), ordered()]),
        rebuilt("_rebuild_parameter_with_state", &[one(), b"\x88".to_vec(), ordered(), dict(&[])]),
        call(global("torch.nn.parameter", "Parameter"), &[one(), b"\x88".to_vec()]),
        call(global("torch._tensor", "_rebuild_from_type_v2"), &typed),
        // Python 2 writes the items of an ordered dictionary as one argument
        call(global("collections", "OrderedDict"), &[[b"](](".to_vec(), pair, b"ee".to_vec()].concat()]),
    ];
    for code in wrapped {
        let index = read(&dict(&[("w", code)])).unwrap();
        let info = index.tensors().values().next().unwrap();
        assert_eq!((index.tensors().len(), &info.shape[..]), (1, &[3][..]));
    }
}

#[test]
fn instructions_that_torch_never_writes_are_refused() {
    for code in [
        &b"\x82\x01"[..],
        b"\x83\x01\x00",
        b"\x84\x01\x00\x00\x00",
        b"\x97",
        b"\x98",
        b"?",
        b"\xff",
        b"I1\n",
        b"S'x'\n",
        b"(lp0\n",
    ] {
        let error = read(code).unwrap_err();
        assert!(matches!(error, TorchError::Instruction { opcode, .. } if code.contains(&opcode)), "{code:?}: {error}");
    }
}

#[test]
fn stacks_marks_and_memos_are_not_trusted() {
    for code in [
        &b""[..],
        b"0",
        b"t",
        b"1",
        b"N(0",
        b"(",
        b"h\x07",
        b"j\xff\xff\xff\xff",
        b"q\x00",
        b"a",
        b"Na",
        b"]NNs",
        b"}N(Nu",
        b"\x8fN(e",
    ] {
        let error = read(code).unwrap_err();
        assert!(matches!(error, TorchError::Malformed { .. }), "{code:?}: {error}");
    }
    malformed(&[&b"\x80\x07"[..]].concat());
    malformed(b"X\x02\0\0\0\xff\xfe");
    malformed(b"NQ");
    malformed(b"X\x01\0\0\0aQ");
}

#[test]
fn a_large_memo_place_takes_no_memory() {
    let index = read(b"K\x05r\xff\xff\xff\xff0j\xff\xff\xff\xff").unwrap();
    assert_eq!(index.values()["tensor"], PlainValue::Int(5));
}

#[test]
fn bombs_are_stopped() {
    // each list holds the one before twice, so that 2^60 values can be reached
    let laughs = [&b"]q\0"[..], &b"]h\0ah\0aq\0".repeat(60)].concat();
    assert_eq!(limited(&laughs), "values that can be reached");
    assert_eq!(limited(b"]q\0h\0a"), "containers within containers"); // a list within itself
    assert_eq!(limited(&[&b")"[..], &b"\x85".repeat(400_000)].concat()), "containers within containers");
    assert_eq!(limited(&b"]".repeat(70_000)), "values on the stack");
    assert_eq!(limited(&b"(".repeat(70_000)), "nested marks");
    assert_eq!(limited(&b"]0".repeat(600_000)), "objects");
    assert_eq!(limited(&[&b"]"[..], &b"Na".repeat(1_100_000)].concat()), "members of containers");
    assert_eq!(limited(&b"N0".repeat(9_000_000)), "instructions");
    let memo: Vec<u8> = (0..600_000u32).flat_map(|place| [&b"r"[..], &place.to_le_bytes()].concat()).collect();
    assert_eq!(limited(&[&b"N"[..], &memo].concat()), "places in the memo");
}

#[test]
fn names_are_limited() {
    let long = "n".repeat(1_000);
    assert_eq!(limited(&dict(&[(&long, dict(&[(&long, int(1))]))])), "bytes in one name");
    assert_eq!(limited(&global(&long, "x")), "characters in one name of its pickle");
    let key = [text(&"k".repeat(1_000)), b"q\x01".to_vec()].concat();
    // 60 names within a list of 1000 values of a text that the memo holds once
    let inner = [&b"]q\x02("[..], &b"h\x01".repeat(1_000), b"e"].concat();
    let outer = [&b"]("[..], &key, &inner, &b"h\x02".repeat(60), b"e"].concat();
    assert_eq!(limited(&outer), "bytes of names and texts");
}

#[test]
fn names_that_collide_are_refused() {
    for code in [
        dict(&[("a.b", int(1)), ("a", dict(&[("b", int(2))]))]),
        dict(&[("a", int(1)), ("a", int(2))]),
        dict(&[("w", tensor(storage("FloatStorage", "0", 16), 0, &[1], &[1])), ("w", int(2))]),
    ] {
        assert!(matches!(read(&code), Err(TorchError::Twice { .. })));
    }
}

#[test]
fn lengths_beyond_the_file_are_cut_short() {
    let huge = u64::MAX.to_le_bytes();
    let codes = [
        [&b"X"[..], &[0xff; 4]].concat(),
        [&b"T"[..], &[0xff; 4]].concat(),
        [&b"B"[..], &[0xff; 4]].concat(),
        [&b"\x8d"[..], &huge].concat(),
        [&b"\x8e"[..], &huge].concat(),
        [&b"\x96"[..], &huge].concat(),
        [&b"\x8b"[..], &[0xff; 4]].concat(),
        b"\x8c\xff".to_vec(),
        b"\x8a\xff".to_vec(),
        b"cos".to_vec(),
    ];
    for code in codes {
        let error = read(&code).unwrap_err();
        assert!(matches!(error, TorchError::CutShort { .. }), "{code:?}: {error}");
    }
}

#[test]
fn tensors_stay_within_their_storage() {
    assert_eq!(float_tensor(16, 0, &[4, 4], &[4, 1]).unwrap().tensors()["w"].shape, [4, 4]);
    assert!(float_tensor(16, 15, &[1], &[1]).is_ok());
    let (most, many) = (i64::MAX, 1 << 40);
    for (len, offset, sizes, strides) in [
        (17, 0, &[1][..], &[1][..]),
        (most, 0, &[1], &[1]),
        (-1, 0, &[1], &[1]),
        (16, 16, &[1], &[1]),
        (16, -1, &[1], &[1]),
        (16, most, &[1], &[1]),
        (16, 0, &[17], &[1]),
        (8, 0, &[9], &[1]),
        (16, 0, &[-1], &[1]),
        (16, 0, &[2], &[-1]),
        (16, 0, &[2], &[most]),
        (16, 0, &[many], &[0]),
        (16, 0, &[most, most], &[0, 0]),
        (16, 0, &[0, most], &[1, 1]),
        (16, 0, &[4], &[]),
    ] {
        let error = float_tensor(len, offset, sizes, strides).unwrap_err();
        assert!(matches!(&error, TorchError::Tensor { name, .. } if name == "w"), "{len} {offset} {sizes:?}: {error}");
    }
}

#[test]
fn storages_must_be_in_the_archive() {
    let absent = dict(&[("w", tensor(storage("FloatStorage", "7", 4), 0, &[1], &[1]))]);
    assert!(matches!(read(&absent), Err(TorchError::Storage { key, .. }) if key == "7"));
    let upwards = dict(&[("w", tensor(storage("FloatStorage", "../data.pkl", 1), 0, &[1], &[1]))]);
    assert!(matches!(read(&upwards), Err(TorchError::Storage { .. })));
    malformed(&dict(&[("w", tensor(text("0"), 0, &[1], &[1]))]));
}

fn small() -> Archive {
    let code = dict(&[("w", tensor(storage("FloatStorage", "0", 16), 0, &[16], &[1]))]);
    Archive::new(pickle(&code), &[(0..64).collect()])
}

fn archive_fault(archive: &Archive) -> String {
    match TorchIndex::new(&archive.bytes()).unwrap_err() {
        TorchError::Archive { entry, problem } => format!("{entry}: {problem}"),
        other => panic!("{other}"),
    }
}

#[test]
fn archives_of_32_and_64_bits_are_read() {
    for zip64 in [false, true] {
        let bytes = Archive { zip64, ..small() }.bytes();
        let index = TorchIndex::new(&bytes).unwrap();
        assert_eq!(index.data("w", &bytes).as_deref(), Some(&(0..64).collect::<Vec<u8>>()[..]), "{zip64}");
        for len in 0..bytes.len() {
            assert!(TorchIndex::new(&bytes[..len]).is_err(), "{zip64}: cut to {len}");
        }
    }
}

#[test]
fn an_archive_may_end_with_a_comment() {
    let mut bytes = small().bytes();
    let comment = b"PK\x05\x06 a comment that looks like the end of the archive";
    let len = bytes.len();
    bytes[len - 2..].copy_from_slice(&(comment.len() as u16).to_le_bytes());
    bytes.extend(comment);
    assert!(TorchIndex::new(&bytes).is_ok());
    bytes.push(0);
    assert!(TorchIndex::new(&bytes).is_err());
}

#[test]
fn archives_that_lie_are_refused() {
    let lie =
        |entry, place, bytes: &[u8]| archive_fault(&Archive { lies: vec![(entry, place, bytes.to_vec())], ..small() });
    assert!(lie(1, METHOD, &[8]).contains("archive/data/0: is compressed"));
    assert!(lie(1, FLAGS, &[1]).contains("is encrypted"));
    assert!(lie(1, LEN, &[65]).contains("two different lengths"));
    assert!(lie(1, COMPRESSED, &[63]).contains("two different lengths"));
    let longer = [LEN, COMPRESSED].map(|place| (1, place, vec![65]));
    assert!(archive_fault(&Archive { lies: longer.to_vec(), ..small() }).contains("beyond the file or into"));
    assert!(lie(1, HEADER, &[0, 0]).contains("differs from"));
    assert!(lie(1, HEADER, &[1, 0]).contains("is not where"));
    assert!(lie(1, HEADER, &[0xff; 4]).contains("64-bit"));
    assert!(lie(1, HEADER, &[0xfe; 4]).contains("beyond the file"));
    assert!(lie(1, NAME, b"A").contains("differs from"));
    assert!(lie(0, 0, b"X").contains("directory: is damaged"));
}

#[test]
fn entries_do_not_overlap_or_repeat() {
    let mut twice = small();
    twice.entries.push(twice.entries[1].clone());
    assert_eq!(archive_fault(&twice), "archive/data/0: is in the archive twice");
    let inner = Archive::new(Vec::new(), &[vec![7; 8]]).bytes();
    let nested = Archive {
        entries: vec![
            small().entries[0].clone(),
            ("archive/data/0".into(), vec![7; 8]),
            ("archive/data/1".into(), inner),
        ],
        ..small()
    };
    let bytes = nested.bytes();
    // the second entry's record is turned to its namesake within the third
    let is_namesake = |header: &[u8]| header.starts_with(b"PK\x03\x04") && header.ends_with(b"archive/data/0");
    let place = bytes.windows(30 + 14).rposition(is_namesake).unwrap();
    let lies = vec![(1, HEADER, (place as u32).to_le_bytes().to_vec())];
    assert_eq!(archive_fault(&Archive { lies, ..nested }), "archive/data/0: lies within another entry");
}

#[test]
fn an_archive_without_a_pickle_is_refused() {
    let archive = Archive { entries: vec![("archive/other".into(), vec![1])], ..small() };
    assert!(archive_fault(&archive).contains("data.pkl: is missing"));
    let archive = Archive { entries: Vec::new(), ..small() };
    assert!(TorchIndex::new(&archive.bytes()).is_err());
    let mut order = small();
    order.entries.push(("archive/byteorder".into(), b"middle".to_vec()));
    assert!(archive_fault(&order).contains("byteorder: is neither"));
}

#[test]
fn too_many_entries_are_refused() {
    let entries = (0..65_535).map(|index| (format!("archive/data/{index}"), Vec::new())).collect();
    assert!(archive_fault(&Archive { entries, ..small() }).contains("64-bit"));
    let entries = (0..70_000).map(|index| (format!("archive/data/{index}"), Vec::new())).collect();
    let bytes = Archive { entries, zip64: true, ..small() }.bytes();
    assert!(matches!(TorchIndex::new(&bytes), Err(TorchError::Limit { what: "entries in its archive", .. })));
}

/// The four pickles of the stream format in front of the last one and the storages.
fn stream(code: &[u8], rest: &[u8]) -> Vec<u8> {
    let magic = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19";
    let system = dict(&[("little_endian", b"\x88".to_vec())]);
    [pickle(magic), pickle(b"M\xe9\x03"), pickle(&system), pickle(code), rest.to_vec()].concat()
}

#[test]
fn storages_of_the_stream_format_are_checked() {
    let class = [text("storage"), global("torch", "FloatStorage"), text("k"), text("cpu"), int(4)];
    let view = |start, len| {
        let id = [&class[..], &[tuple(&[text("v"), int(start), int(len)])]].concat();
        dict(&[("w", tensor([tuple(&id), b"Q".to_vec()].concat(), 0, &[2], &[1]))])
    };
    let keys = |keys: &[&str]| {
        pickle(&[b"](".to_vec(), keys.iter().flat_map(|key| text(key)).collect(), b"e".to_vec()].concat())
    };
    let data = |len: i64, bytes: &[u8]| [&len.to_le_bytes()[..], bytes].concat();
    let ten = || data(4, &(0..16).collect::<Vec<_>>());

    let bytes = stream(&view(1, 2), &[keys(&["k"]), ten()].concat());
    assert_eq!(TorchIndex::new(&bytes).unwrap().data("w", &bytes).as_deref(), Some(&[4, 5, 6, 7, 8, 9, 10, 11][..]));

    for (start, len) in [(1, 4), (3, 1), (-1, 2), (i64::MAX, i64::MAX), (0, i64::MAX)] {
        let bytes = stream(&view(start, len), &[keys(&["k"]), ten()].concat());
        assert!(matches!(TorchIndex::new(&bytes), Err(TorchError::Tensor { .. })), "{start} {len}");
    }
    for rest in [
        keys(&[]),
        [keys(&["other"]), ten()].concat(),
        [keys(&["k", "k"]), ten(), ten()].concat(),
        [keys(&["k"]), data(i64::MAX, &[0; 16])].concat(),
        [keys(&["k"]), data(-4, &[0; 16])].concat(),
        [keys(&["k"]), data(5, &[0; 16])].concat(),
    ] {
        let bytes = stream(&view(0, 2), &rest);
        assert!(matches!(TorchIndex::new(&bytes), Err(TorchError::Storage { .. })), "{rest:?}");
    }
    let few = stream(&view(0, 2), &[keys(&["k"]), data(3, &[0; 12])].concat());
    assert!(matches!(TorchIndex::new(&few), Err(TorchError::Tensor { name, .. }) if name == "w"));
}
