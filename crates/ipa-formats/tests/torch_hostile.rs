//! Pickles and archives that contradict themselves, and what is read of odd ones; the attacks are in torch_refused.rs.
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

fn float_tensor(len: i64, offset: i64, sizes: &[i64], strides: &[i64]) -> Result<TorchIndex, TorchError> {
    read(&dict(&[("w", tensor(storage("FloatStorage", "0", len), offset, sizes, strides))]))
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
fn tensors_may_fill_their_storage() {
    assert_eq!(float_tensor(16, 0, &[4, 4], &[4, 1]).unwrap().tensors()["w"].shape, [4, 4]);
    assert!(float_tensor(16, 15, &[1], &[1]).is_ok());
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
