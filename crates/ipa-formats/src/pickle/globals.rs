//! The classes and functions that a pickle may name, and what naming them stands for.

use std::borrow::Cow;

use super::TorchError;
use super::error::shown;
use crate::Dtype;

/// A class or function by its name in Python.
#[derive(Clone, Copy, Debug)]
pub(super) struct Global<'a> {
    pub(super) kind: Kind,
    module: &'a str,
    name: &'a str,
}

/// What calling a global gives, without calling it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    OrderedDict,
    Set,
    /// `torch.Size`, a tuple.
    Size,
    /// `_codecs.encode`, which is how protocol 2 writes bytes.
    Encode,
    RebuildTensor,
    /// The same for element types that have no storage class.
    RebuildTensorOfDtype,
    /// A tensor wrapped as a parameter: its first argument.
    RebuildParameter,
    /// A tensor with attributes of its own.
    RebuildFromType,
    /// Class of a storage, with its elements' type if that is computed with; never called.
    Storage(Option<Dtype>),
    /// Anything harmless else: the result is not looked into.
    Opaque,
}

/// What real checkpoints carry along: classes of plain data.
const OPAQUE: [(&str, &[&str]); 15] = [
    ("__builtin__", BUILTINS),
    ("builtins", BUILTINS),
    ("argparse", &["Namespace"]),
    ("collections", &["Counter", "defaultdict", "deque"]),
    ("copy_reg", &["_reconstructor"]),
    ("copyreg", &["_reconstructor"]),
    ("datetime", &["date", "datetime", "timedelta", "timezone"]),
    ("numpy", &["dtype", "ndarray", "bool_", "float16", "float32", "float64", "int32", "int64", "uint8"]),
    ("numpy.core.multiarray", &["_reconstruct", "scalar"]),
    ("numpy._core.multiarray", &["_reconstruct", "scalar"]),
    ("numpy.core.numeric", &["_frombuffer"]),
    ("numpy._core.numeric", &["_frombuffer"]),
    ("pathlib", &["Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"]),
    ("torch", &["device", "Tensor", "Generator", "contiguous_format", "channels_last", "preserve_format", "strided"]),
    ("typing", &["Any", "Dict", "List", "Optional", "Tuple", "Union"]),
];

const BUILTINS: &[&str] =
    &["bool", "bytearray", "bytes", "complex", "dict", "float", "int", "list", "object", "slice", "str", "tuple"];

/// Packages whose classes describe a training run: its callbacks, loops and settings.
const OPAQUE_PACKAGES: [&str; 4] = ["pytorch_lightning", "lightning", "lightning_fabric", "omegaconf"];

const DTYPES: [&str; 24] = [
    "bfloat16",
    "bool",
    "complex128",
    "complex32",
    "complex64",
    "double",
    "float",
    "float16",
    "float32",
    "float64",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "half",
    "int",
    "int16",
    "int32",
    "int64",
    "int8",
    "long",
    "short",
    "uint8",
    "uint16",
];

impl<'a> Global<'a> {
    /// Looks a name up.
    pub(super) fn named(module: &'a str, name: &'a str) -> Result<Self, TorchError> {
        match kind_of(module, name) {
            Some(kind) => Ok(Self { kind, module, name }),
            None => Err(refused(module, name)),
        }
    }

    pub(super) fn refusal(&self) -> TorchError {
        refused(self.module, self.name)
    }

    /// Module and name, joined by a point.
    pub(super) fn path(&self) -> String {
        shown(&format!("{}.{}", self.module, self.name))
    }
}

pub(super) fn refused(module: &str, name: &str) -> TorchError {
    TorchError::Refused { callable: format!("{}.{}", shown(module), shown(name)) }
}

fn kind_of(module: &str, name: &str) -> Option<Kind> {
    Some(match (module, name) {
        ("collections", "OrderedDict") => Kind::OrderedDict,
        ("builtins" | "__builtin__", "set" | "frozenset") => Kind::Set,
        ("torch", "Size") => Kind::Size,
        ("_codecs", "encode") => Kind::Encode,
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Kind::RebuildTensor,
        ("torch._utils", "_rebuild_tensor_v3") => Kind::RebuildTensorOfDtype,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Kind::RebuildParameter,
        ("torch.nn.parameter", "Parameter") => Kind::RebuildParameter,
        ("torch._tensor" | "torch.tensor", "_rebuild_from_type_v2") => Kind::RebuildFromType,
        ("torch.serialization", "_get_layout") => Kind::Opaque,
        ("torch.storage", "UntypedStorage") => Kind::Storage(Some(Dtype::U8)),
        ("torch" | "torch.cuda", _) if name.ends_with("Storage") => Kind::Storage(storage_dtype(name)?),
        ("torch" | "torch.cuda", _) if is_tensor_class(name) => Kind::Opaque,
        ("torch", _) if DTYPES.contains(&name) => Kind::Opaque,
        _ if is_opaque(module, name) => Kind::Opaque,
        _ => return None,
    })
}

/// Outer `None` for no storage class, inner for one whose numbers are not computed with.
fn storage_dtype(class: &str) -> Option<Option<Dtype>> {
    Some(Some(match class.strip_suffix("Storage")? {
        "Double" => Dtype::F64,
        "Float" => Dtype::F32,
        "Half" => Dtype::F16,
        "BFloat16" => Dtype::BF16,
        "Long" => Dtype::I64,
        "Int" => Dtype::I32,
        "Short" => Dtype::I16,
        "Char" => Dtype::I8,
        "Byte" | "Untyped" => Dtype::U8,
        "Bool" => Dtype::Bool,
        "ComplexDouble" | "ComplexFloat" | "QInt8" | "QInt32" | "QUInt8" | "QUInt4x2" | "QUInt2x4" => {
            return Some(None);
        }
        _ => return None,
    }))
}

fn is_tensor_class(name: &str) -> bool {
    let element = name.strip_suffix("Tensor").map(|element| Cow::from(format!("{element}Storage")));
    element.is_some_and(|storage| storage_dtype(&storage).is_some())
}

fn is_opaque(module: &str, name: &str) -> bool {
    let package = module.split('.').next().unwrap_or(module);
    // A name with a point in it could reach out of the package, as `os.system` does where it is imported.
    (OPAQUE_PACKAGES.contains(&package) && !name.contains('.'))
        || OPAQUE.iter().any(|&(known, names)| known == module && names.contains(&name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn storages_are_known_by_their_elements() {
        for (name, dtype) in
            [("FloatStorage", Some(Dtype::F32)), ("BFloat16Storage", Some(Dtype::BF16)), ("QInt8Storage", None)]
        {
            for module in ["torch", "torch.cuda"] {
                assert_eq!(Global::named(module, name).unwrap().kind, Kind::Storage(dtype));
            }
        }
        assert!(Global::named("torch", "SecretStorage").is_err());
        assert!(Global::named("torch.cuda", "HalfTensor").is_ok());
    }

    #[test]
    fn what_could_run_is_refused_by_name() {
        let dangerous = [
            ("os", "system"),
            ("posix", "system"),
            ("builtins", "eval"),
            ("builtins", "getattr"),
            ("__builtin__", "exec"),
            ("torch", "load"),
            ("torch.hub", "load"),
            ("torch._utils", "_import_dotted_name"),
            ("torch.serialization", "load"),
            ("numpy", "load"),
            ("numpy.core.multiarray", "fromfile"),
            ("numpy.testing._private.utils", "runstring"),
            ("pytorch_lightning.callbacks", "model_checkpoint.os.system"),
            ("lightningos", "system"),
            ("collections", "OrderedDict.__reduce__"),
            ("pathlib", "os.system"),
            ("", ""),
        ];
        for (module, name) in dangerous {
            let error = Global::named(module, name).unwrap_err();
            assert!(
                matches!(&error, TorchError::Refused { callable } if *callable == format!("{module}.{name}")),
                "{error}"
            );
        }
    }

    #[test]
    fn names_from_strangers_are_escaped_and_shortened() {
        let TorchError::Refused { callable } = refused("a\x1b[2J\n", &"x".repeat(9_999)) else { unreachable!() };
        assert!(callable.len() < 200 && callable.chars().all(|letter| !letter.is_control()), "{callable}");
    }
}
