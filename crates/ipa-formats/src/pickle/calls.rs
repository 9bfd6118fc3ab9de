//! What a pickle's calls and persistent ids stand for: tensors, storages, containers.

use super::error::TorchError;
use super::globals::{Global, Kind};
use super::machine::Machine;
use super::objects::{Object, Storage, Tensor, Value};

impl<'a> Machine<'a> {
    /// A storage, or a number that another pickle of the file explains.
    pub(super) fn persistent(&mut self) -> Result<Value<'a>, TorchError> {
        let id = self.pop()?;
        let malformed = self.malformed("a persistent id is not that of a storage");
        if let Value::Text(number) = id {
            let number = number.parse().map_err(|_| malformed)?;
            return self.objects.add(Object::Numbered(number));
        }
        let storage = self.objects.tuple(id).and_then(|id| self.storage(id)).ok_or(malformed)?;
        self.objects.add(Object::Storage(storage))
    }

    /// `("storage", class, key, location, len)`, in the stream format followed by `None` or a view `(key, start, len)`.
    fn storage(&self, id: &[Value<'a>]) -> Option<Storage<'a>> {
        let (&[kind, class, Value::Text(key), _location, Value::Int(len)], view) = id.split_first_chunk()? else {
            return None;
        };
        let view = match *view {
            [] | [Value::None] => None,
            [view] => match *self.objects.tuple(view)? {
                [_key, Value::Int(start), Value::Int(len)] => Some((start, len)),
                _ => return None,
            },
            _ => return None,
        };
        match self.objects.get(class)? {
            &Object::Global(class) if matches!(class.kind, Kind::Storage(_)) && kind == Value::Text("storage") => {
                Some(Storage { class, key, len, view })
            }
            _ => None,
        }
    }

    pub(super) fn call(&mut self) -> Result<Value<'a>, TorchError> {
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let Some(&Object::Global(callee)) = self.objects.get(callee) else {
            return Err(self.malformed("what is called is no function"));
        };
        self.result(callee, arguments)
    }

    /// What calling `callee` would give.
    fn result(&mut self, callee: Global<'a>, arguments: Value<'a>) -> Result<Value<'a>, TorchError> {
        let malformed = self.malformed("a function gets arguments that torch does not give it");
        let Some(arguments) = self.objects.tuple(arguments) else { return Err(malformed) };
        let object = match (callee.kind, arguments) {
            (Kind::Opaque, _) => Object::Opaque(callee),
            (Kind::OrderedDict, []) => Object::Dict(Vec::new()),
            (Kind::OrderedDict, &[pairs]) => Object::Dict(self.pairs(pairs).ok_or(malformed)?),
            (Kind::Set, []) => Object::Set(Vec::new()),
            (Kind::Set, &[members]) => Object::Set(self.objects.members(members).ok_or(malformed)?.to_vec()),
            (Kind::Size, &[sizes]) if self.objects.tuple(sizes).is_some() => return Ok(sizes),
            (Kind::Encode, &[Value::Text(text), Value::Text("latin1")]) => return Ok(Value::Latin1(text)),
            (Kind::RebuildTensor, arguments) => Object::Tensor(self.tensor(arguments, false).ok_or(malformed)?),
            (Kind::RebuildTensorOfDtype, arguments) => Object::Tensor(self.tensor(arguments, true).ok_or(malformed)?),
            (Kind::RebuildParameter, &[data, ..]) => match self.objects.get(data) {
                Some(Object::Tensor(_) | Object::Numbered(_)) => return Ok(data),
                _ => return Err(malformed),
            },
            (Kind::RebuildFromType, &[function, _class, arguments, ..]) => match self.objects.get(function) {
                Some(&Object::Global(function))
                    if matches!(function.kind, Kind::RebuildTensor | Kind::RebuildParameter) =>
                {
                    return self.result(function, arguments);
                }
                _ => return Err(malformed),
            },
            (Kind::Storage(_), _) => return Err(callee.refusal()),
            _ => return Err(malformed),
        };
        self.objects.add(object)
    }

    /// The items of a dictionary as Python 2 writes an ordered one: a list of lists of two.
    fn pairs(&self, pairs: Value<'a>) -> Option<Vec<(Value<'a>, Value<'a>)>> {
        let pair = |&pair| match *self.objects.members(pair)? {
            [key, value] => Some((key, value)),
            _ => None,
        };
        self.objects.members(pairs)?.iter().map(pair).collect()
    }

    /// `(storage, offset, sizes, strides, requires_grad, hooks, metadata)`, of which the last three may be missing;
    /// with the element type, which has no class of storages then, in front of the metadata.
    fn tensor(&self, arguments: &[Value<'a>], with_dtype: bool) -> Option<Tensor> {
        let (&[storage, Value::Int(offset), sizes, strides], rest) = arguments.split_first_chunk()? else {
            return None;
        };
        let (Value::Object(storage), Value::Object(sizes), Value::Object(strides)) = (storage, sizes, strides) else {
            return None;
        };
        let dtype = match rest.get(2) {
            Some(&Value::Object(dtype)) if with_dtype => Some(dtype),
            _ if with_dtype => return None,
            _ => None,
        };
        let metadata = rest.get(2 + usize::from(with_dtype)).copied().unwrap_or(Value::None);
        let is_unset = |value: Value<'a>| matches!(value, Value::Bool(false) | Value::None);
        let negated = !is_unset(metadata) && !self.objects.dict(metadata)?.iter().all(|&(_, value)| is_unset(value));
        let known =
            matches!(self.objects.by_id(storage), Object::Storage(_)) && rest.len() <= 3 + usize::from(with_dtype);
        known.then_some(Tensor { storage, offset, sizes, strides, dtype, negated })
    }

    /// Sets the state of an object: attributes, none of which are of use here.
    pub(super) fn build(&mut self) -> Result<Value<'a>, TorchError> {
        let (_state, object) = (self.pop()?, self.pop()?);
        match self.objects.get(object) {
            Some(Object::Opaque(_) | Object::Dict(_) | Object::Tensor(_)) => Ok(object),
            Some(Object::Global(class)) => Err(class.refusal()), // would change the class itself
            _ => Err(self.malformed("a state is given to what has none")),
        }
    }
}
