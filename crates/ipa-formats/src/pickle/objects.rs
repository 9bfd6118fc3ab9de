//! What a pickle describes: values, and an arena of objects that refer to each other by number.
//!
//! An arena takes cycles and any depth of nesting without recursion, and is freed in one go.

use super::TorchError;
use super::globals::Global;

/// Objects of one pickle; a checkpoint with its optimizer's state makes some tens of thousands.
const MAX_OBJECTS: usize = 1 << 19;
/// Members of all containers of one pickle together.
const MAX_MEMBERS: usize = 1 << 20;

/// A number of an object in its arena.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Id(u32);

/// A plain value, borrowed from the pickle's bytes, or an object.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// An integer of more than 64 bits, as little-endian two's complement.
    Long(&'a [u8]),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// Bytes that stand in the pickle as the text of as many characters.
    Latin1(&'a str),
    Object(Id),
}

/// Something that has an identity: it can be shared, and changed while the pickle is read.
#[derive(Debug)]
pub(super) enum Object<'a> {
    List(Vec<Value<'a>>),
    Tuple(Vec<Value<'a>>),
    Set(Vec<Value<'a>>),
    Dict(Vec<(Value<'a>, Value<'a>)>),
    /// A class or function that is not forbidden.
    Global(Global<'a>),
    /// An object of a class that is known to be harmless, and of which nothing else is known.
    Opaque(Global<'a>),
    Storage(Storage<'a>),
    Tensor(Tensor),
    /// What another pickle of the same file described under this number.
    Numbered(i64),
}

/// Bytes that tensors lie in, as a persistent id names them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage<'a> {
    pub(super) class: Global<'a>,
    pub(super) key: &'a str,
    pub(super) len: i64,
    /// First element and number of elements of the part that is meant, if not the whole.
    pub(super) view: Option<(i64, i64)>,
}

/// A strided view of a storage; all but the storage is unchecked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tensor {
    pub(super) storage: Id,
    pub(super) offset: i64,
    pub(super) sizes: Id,
    pub(super) strides: Id,
    /// The class of its elements, if that has no class of storages of its own.
    pub(super) dtype: Option<Id>,
    /// Whether its elements are to be read as negated or conjugated.
    pub(super) negated: bool,
}

/// All objects of a pickle.
#[derive(Debug, Default)]
pub(super) struct Objects<'a> {
    objects: Vec<Object<'a>>,
    num_members: usize,
}

impl<'a> Objects<'a> {
    pub(super) fn add(&mut self, object: Object<'a>) -> Result<Value<'a>, TorchError> {
        if self.objects.len() == MAX_OBJECTS {
            return Err(TorchError::Limit { what: "objects", limit: MAX_OBJECTS });
        }
        let members = match &object {
            Object::List(members) | Object::Tuple(members) | Object::Set(members) => members.len(),
            Object::Dict(members) => members.len(),
            _ => 0,
        };
        self.count_members(members)?;
        self.objects.push(object);
        Ok(Value::Object(Id(self.objects.len() as u32 - 1)))
    }

    /// To be called before members are added to an object.
    pub(super) fn count_members(&mut self, added: usize) -> Result<(), TorchError> {
        self.num_members = self.num_members.saturating_add(added);
        match self.num_members > MAX_MEMBERS {
            true => Err(TorchError::Limit { what: "members of containers", limit: MAX_MEMBERS }),
            false => Ok(()),
        }
    }

    pub(super) fn get(&self, value: Value<'a>) -> Option<&Object<'a>> {
        let Value::Object(id) = value else { return None };
        Some(self.by_id(id))
    }

    pub(super) fn get_mut(&mut self, value: Value<'a>) -> Option<&mut Object<'a>> {
        let Value::Object(id) = value else { return None };
        self.objects.get_mut(id.0 as usize)
    }

    pub(super) fn by_id(&self, id: Id) -> &Object<'a> {
        &self.objects[id.0 as usize] // ids are made by `add` alone, and objects are never removed
    }

    pub(super) fn tuple(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match self.get(value)? {
            Object::Tuple(members) => Some(members),
            _ => None,
        }
    }

    /// Members of a dictionary, in the order in which they were set.
    pub(super) fn dict(&self, value: Value<'a>) -> Option<&[(Value<'a>, Value<'a>)]> {
        match self.get(value)? {
            Object::Dict(members) => Some(members),
            _ => None,
        }
    }

    /// Members of a list, tuple or set.
    pub(super) fn members(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match self.get(value)? {
            Object::List(members) | Object::Tuple(members) | Object::Set(members) => Some(members),
            _ => None,
        }
    }

    /// Storages in the order in which the pickle names them.
    pub(super) fn storages(&self) -> impl Iterator<Item = &Storage<'a>> {
        self.objects.iter().filter_map(|object| match object {
            Object::Storage(storage) => Some(storage),
            _ => None,
        })
    }
}
