//! From nested containers to tensors and values by name.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use serde::Serialize;

use super::error::{TorchError, shown};
use super::globals::{Global, Kind};
use super::machine::Unpickled;
use super::objects::{Object, Tensor, Value};
use super::place::Place;
use crate::{Dtype, TensorInfo};

/// Limits as for safetensors.
const MAX_TENSORS: usize = 65_536;
const MAX_NAME_BYTES: usize = 1_024;
/// Containers within containers; published checkpoints have about eight.
const MAX_DEPTH: usize = 64;
/// Members looked at, each as often as it can be reached.
const MAX_VISITS: usize = 1 << 20;
const MAX_VALUES: usize = 1 << 18;
/// Bytes of all names and texts together: names grow longer when containers are flattened.
const MAX_TEXT_BYTES: usize = 1 << 25;
/// The name of a tensor or value that is not in a container.
const BARE_NAME: &str = "tensor";

/// What stands in a checkpoint besides tensors.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum PlainValue {
    /// Python's `None`.
    None,
    /// A truth value.
    Bool(bool),
    /// An integer; those of more than 64 bits are left out.
    Int(i64),
    /// A number.
    Float(f64),
    /// A text.
    Text(String),
    /// An object that is not looked into, by the name of its class or function.
    Opaque(String),
}

/// Where the storages of a file lie, by key.
pub(super) type Storages<'a> = HashMap<&'a str, Range<usize>>;

/// A tensor that lies in a file.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) info: TensorInfo,
    pub(super) place: Place,
}

/// A file's tensors and values by name.
#[derive(Debug, Default)]
pub(super) struct Flat {
    pub(super) tensors: BTreeMap<String, TensorInfo>,
    pub(super) places: BTreeMap<String, Place>,
    pub(super) values: BTreeMap<String, PlainValue>,
}

/// Names what can be reached from the root of a pickle.
pub(super) fn flatten(
    unpickled: &Unpickled<'_>,
    storages: &Storages<'_>,
    numbered: &HashMap<i64, Found>,
) -> Result<Flat, TorchError> {
    let mut walk = Walk {
        unpickled,
        storages,
        numbered,
        flat: Flat::default(),
        name: String::new(),
        num_visits: 0,
        text_bytes: 0,
    };
    walk.visit(unpickled.root, 0)?;
    Ok(walk.flat)
}

struct Walk<'f, 'a> {
    unpickled: &'f Unpickled<'a>,
    storages: &'f Storages<'a>,
    numbered: &'f HashMap<i64, Found>,
    flat: Flat,
    /// Name of the value that is being visited.
    name: String,
    num_visits: usize,
    text_bytes: usize,
}

impl<'a> Walk<'_, 'a> {
    fn visit(&mut self, value: Value<'a>, depth: usize) -> Result<(), TorchError> {
        self.num_visits += 1;
        within(self.num_visits, MAX_VISITS, "values that can be reached")?;
        within(depth, MAX_DEPTH, "containers within containers")?;
        let unpickled = self.unpickled;
        let Some(object) = unpickled.objects.get(value) else { return self.plain(value) };
        match object {
            Object::Dict(members) => members.iter().try_for_each(|&(key, value)| match self.key(key) {
                Some(key) => self.visit_as(&key, value, depth),
                None => Ok(()),
            }),
            Object::List(members) | Object::Tuple(members) => members
                .iter()
                .enumerate()
                .try_for_each(|(index, &value)| self.visit_as(&index.to_string(), value, depth)),
            Object::Set(_) | Object::Storage(_) => Ok(()), // without an order, without a shape
            Object::Global(global) | Object::Opaque(global) => self.keep_value(PlainValue::Opaque(global.path())),
            Object::Tensor(tensor) => self.tensor(tensor).and_then(|found| self.keep_tensor(found)),
            Object::Numbered(number) => {
                let found = self.numbered.get(number).cloned();
                let missing = TorchError::Storage { key: number.to_string(), problem: "is not in the file" };
                found.ok_or(missing).and_then(|found| self.keep_tensor(found))
            }
        }
    }

    /// Visits a member of the container that is being visited.
    fn visit_as(&mut self, key: &str, value: Value<'a>, depth: usize) -> Result<(), TorchError> {
        let outer = self.name.len();
        if depth > 0 {
            self.name.push('.');
        }
        self.name.push_str(key);
        within(self.name.len(), MAX_NAME_BYTES, "bytes in one name")?;
        self.visit(value, depth + 1)?;
        self.name.truncate(outer);
        Ok(())
    }

    /// A key as part of a name; `None` for one that has no obvious spelling, such as a tuple.
    fn key(&self, key: Value<'a>) -> Option<Cow<'a, str>> {
        match key {
            Value::Text(text) => Some(text.into()),
            Value::Int(number) => Some(number.to_string().into()),
            _ => match self.unpickled.objects.get(key)? {
                Object::Global(class) => Some(class.path().into()),
                _ => None,
            },
        }
    }

    fn plain(&mut self, value: Value<'a>) -> Result<(), TorchError> {
        let value = match value {
            Value::None => PlainValue::None,
            Value::Bool(value) => PlainValue::Bool(value),
            Value::Int(value) => PlainValue::Int(value),
            Value::Float(value) => PlainValue::Float(value),
            Value::Text(text) => {
                self.count_text(text.len())?;
                PlainValue::Text(text.to_owned())
            }
            Value::Bytes(_) | Value::Latin1(_) => PlainValue::Opaque("bytes".to_owned()),
            Value::Long(_) | Value::Object(_) => return Ok(()),
        };
        self.keep_value(value)
    }

    fn keep_value(&mut self, value: PlainValue) -> Result<(), TorchError> {
        let name = self.new_name()?;
        within(self.flat.values.len() + 1, MAX_VALUES, "plain values")?;
        self.flat.values.insert(name, value);
        Ok(())
    }

    fn keep_tensor(&mut self, Found { info, place }: Found) -> Result<(), TorchError> {
        let name = self.new_name()?;
        within(self.flat.tensors.len() + 1, MAX_TENSORS, "tensors")?;
        self.flat.tensors.insert(name.clone(), info);
        self.flat.places.insert(name, place);
        Ok(())
    }

    fn new_name(&mut self) -> Result<String, TorchError> {
        let name = if self.num_visits == 1 { BARE_NAME } else { &self.name };
        if self.flat.tensors.contains_key(name) || self.flat.values.contains_key(name) {
            return Err(TorchError::Twice { name: shown(name) });
        }
        let name = name.to_owned();
        self.count_text(name.len())?;
        Ok(name)
    }

    fn count_text(&mut self, len: usize) -> Result<(), TorchError> {
        self.text_bytes += len;
        within(self.text_bytes, MAX_TEXT_BYTES, "bytes of names and texts")
    }

    fn tensor(&self, tensor: &Tensor) -> Result<Found, TorchError> {
        let fault = |problem| TorchError::Tensor { name: shown(&self.name), problem };
        let objects = &self.unpickled.objects;
        let Object::Storage(storage) = objects.by_id(tensor.storage) else {
            return Err(fault("has no storage".to_owned()));
        };
        let dtype = dtype_of(&storage.class).map_err(fault)?;
        if let Some(Object::Global(dtype)) = tensor.dtype.map(|id| objects.by_id(id)) {
            let dtype = dtype.path();
            return Err(fault(format!("holds {dtype}, which is not supported; convert it to float16 or float32")));
        }
        if tensor.negated || tensor.dtype.is_some() {
            return Err(fault(
                "is stored negated or conjugated; call resolve_neg() and resolve_conj() and save it".into(),
            ));
        }
        let missing = || TorchError::Storage { key: shown(storage.key), problem: "is not in the file" };
        let range = self.storages.get(storage.key).ok_or_else(missing)?;
        let range = part(range, storage.len, storage.view, dtype).map_err(|problem| fault(problem.to_owned()))?;
        let integers = |id| match objects.by_id(id) {
            Object::Tuple(members) | Object::List(members) => members
                .iter()
                .map(|&member| if let Value::Int(number) = member { Some(number) } else { None })
                .collect::<Option<Vec<i64>>>(),
            _ => None,
        };
        let (Some(sizes), Some(strides)) = (integers(tensor.sizes), integers(tensor.strides)) else {
            return Err(fault("has sizes or strides that are no integers".to_owned()));
        };
        found(dtype, &sizes, &strides, tensor.offset, &range).map_err(fault)
    }
}

/// Checks a strided tensor in the bytes of its storage.
pub(super) fn found(
    dtype: Dtype,
    sizes: &[i64],
    strides: &[i64],
    offset: i64,
    storage: &Range<usize>,
) -> Result<Found, String> {
    let shape = sizes.iter().map(|&size| usize::try_from(size)).collect::<Result<_, _>>();
    let shape = shape.map_err(|_| format!("has the impossible shape {sizes:?}"))?;
    let info = TensorInfo { dtype, shape };
    let place = Place::new(&info, storage, offset, strides)?;
    Ok(Found { info, place })
}

/// The element type of a storage class, or why it has none.
pub(super) fn dtype_of(class: &Global<'_>) -> Result<Dtype, String> {
    match class.kind {
        Kind::Storage(Some(dtype)) => Ok(dtype),
        _ => {
            let class = class.path();
            Err(format!("lies in a {class}, which is not supported; convert it to float16, bfloat16 or float32"))
        }
    }
}

/// The bytes that a persistent id means: so many elements of a storage, or a view of them.
pub(super) fn part(
    storage: &Range<usize>,
    len: i64,
    view: Option<(i64, i64)>,
    dtype: Dtype,
) -> Result<Range<usize>, &'static str> {
    let bytes = |count: i64| usize::try_from(count).ok()?.checked_mul(dtype.size());
    let whole = bytes(len).filter(|&len| len <= storage.len());
    let whole =
        whole.ok_or("lies in a storage of fewer bytes than its pickle claims; fetch or write the file again")?;
    let (start, len) =
        view.map_or(Some((0, whole)), |(start, len)| Some((bytes(start)?, bytes(len)?))).unwrap_or((whole, 1));
    match start.checked_add(len) {
        Some(end) if end <= whole => Ok(storage.start + start..storage.start + end),
        _ => Err("lies in a view beyond its storage; fetch or write the file again"),
    }
}

fn within(count: usize, limit: usize, what: &'static str) -> Result<(), TorchError> {
    if count > limit { Err(TorchError::Limit { what, limit }) } else { Ok(()) }
}
