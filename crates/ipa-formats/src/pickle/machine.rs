//! The stack machine: runs over a pickle's instructions and makes the objects they describe.
//!
//! Nothing is called: `calls` knows what a call would give.

use std::collections::HashMap;

use super::cursor::Cursor;
use super::error::TorchError;
use super::globals::{Global, refused};
use super::objects::{Object, Objects, Value};
use super::opcode as op;

/// Instructions of one pickle.
const MAX_STEPS: usize = 1 << 24;
/// Values on the stack, which holds the members of a tuple or of a batch of 1000 items.
const MAX_STACK: usize = 1 << 16;
const MAX_MEMO: usize = 1 << 19;
/// Bytes of one text or byte string.
const MAX_STRING: usize = 1 << 26;
/// Letters of a module or class name.
const MAX_NAME: usize = 512;
/// The newest protocol of Python's pickles.
const MAX_PROTOCOL: u8 = 5;

/// A pickle's objects, the outermost value, and where the pickle ends.
#[derive(Debug)]
pub(super) struct Unpickled<'a> {
    pub(super) objects: Objects<'a>,
    pub(super) root: Value<'a>,
    pub(super) end: usize,
}

/// Reads the pickle that starts at byte `start`.
///
/// # Errors
/// The first thing at fault; but a call that is refused comes before an instruction that is merely unusual.
pub(super) fn unpickle(bytes: &[u8], start: usize) -> Result<Unpickled<'_>, TorchError> {
    let mut machine = Machine {
        cursor: Cursor::new(bytes, start),
        objects: Objects::default(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        unusual: None,
        at: start,
    };
    match (machine.run(), machine.unusual) {
        (Err(refused @ TorchError::Refused { .. }), _) => Err(refused),
        (_, Some(unusual)) => Err(unusual),
        (root, None) => Ok(Unpickled { root: root?, objects: machine.objects, end: machine.cursor.at() }),
    }
}

#[derive(Debug)]
pub(super) struct Machine<'a> {
    cursor: Cursor<'a>,
    pub(super) objects: Objects<'a>,
    stack: Vec<Value<'a>>,
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    /// The first instruction of protocol 0. torch never writes them, but exploits are often written in it, and the
    /// user wants to know what would have been called rather than how it is spelled.
    unusual: Option<TorchError>,
    /// Place of the current instruction.
    at: usize,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Value<'a>, TorchError> {
        for _ in 0..MAX_STEPS {
            self.at = self.cursor.at();
            let opcode = self.cursor.u8("an instruction of its pickle")?;
            match opcode {
                op::STOP => return self.pop(),
                op::PROTO => self.protocol()?,
                op::FRAME => drop(self.cursor.u64("a frame")?), // its length only tells how much to buffer
                op::MARK => self.mark()?,
                op::POP => drop(self.pop()?),
                op::POP_MARK => drop(self.pop_to_mark()?),
                op::BINPUT..=op::LONG_BINPUT | op::MEMOIZE | op::BINGET | op::LONG_BINGET => self.memory(opcode)?,
                op::APPEND | op::APPENDS | op::SETITEM | op::SETITEMS | op::ADDITEMS => self.fill(opcode)?,
                _ => {
                    let value = self.value(opcode)?;
                    self.push(value)?;
                }
            }
        }
        Err(TorchError::Limit { what: "instructions", limit: MAX_STEPS })
    }

    /// The value that an instruction pushes.
    fn value(&mut self, opcode: u8) -> Result<Value<'a>, TorchError> {
        match opcode {
            op::EMPTY_LIST => self.objects.add(Object::List(Vec::new())),
            op::EMPTY_DICT => self.objects.add(Object::Dict(Vec::new())),
            op::EMPTY_SET => self.objects.add(Object::Set(Vec::new())),
            op::EMPTY_TUPLE => self.objects.add(Object::Tuple(Vec::new())),
            op::TUPLE1..=op::TUPLE3 => self.short_tuple(opcode),
            op::TUPLE => self.pop_to_mark().and_then(|members| self.objects.add(Object::Tuple(members))),
            op::FROZENSET => self.pop_to_mark().and_then(|members| self.objects.add(Object::Set(members))),
            op::GLOBAL => self.global(),
            op::STACK_GLOBAL => self.stack_global(),
            op::BINPERSID => self.persistent(),
            op::REDUCE | op::NEWOBJ => self.call(),
            op::NEWOBJ_EX => self.pop().and_then(|_keywords| self.call()),
            op::BUILD => self.build(),
            op::INST => Err(self.names().map_or_else(|error| error, |(module, name)| refused(module, name))),
            op::OBJ => self.refuse_class(),
            _ => self.scalar(opcode),
        }
    }

    fn scalar(&mut self, opcode: u8) -> Result<Value<'a>, TorchError> {
        const NUMBER: &str = "a number";
        let cursor = &mut self.cursor;
        Ok(match opcode {
            op::NONE => Value::None,
            op::NEWTRUE => Value::Bool(true),
            op::NEWFALSE => Value::Bool(false),
            op::BININT => Value::Int(cursor.i32(NUMBER)?.into()),
            op::BININT1 => Value::Int(cursor.u8(NUMBER)?.into()),
            op::BININT2 => Value::Int(cursor.u16(NUMBER)?.into()),
            op::BINFLOAT => Value::Float(f64::from_be_bytes(cursor.array(NUMBER)?)),
            op::LONG1 => cursor.u8(NUMBER).and_then(|len| Ok(integer(cursor.take(len.into(), NUMBER)?)))?,
            op::LONG4 => cursor.u32(NUMBER).and_then(|len| Ok(integer(cursor.take(len as usize, NUMBER)?)))?,
            op::SHORT_BINUNICODE | op::BINUNICODE | op::BINUNICODE8 => {
                let text = std::str::from_utf8(self.string(opcode)?);
                Value::Text(text.map_err(|_| self.malformed("a text is not UTF-8"))?)
            }
            op::SHORT_BINSTRING | op::BINSTRING => {
                // Python 2 writes its names so; what is not a name may hold any bytes.
                let bytes = self.string(opcode)?;
                std::str::from_utf8(bytes).map_or(Value::Bytes(bytes), Value::Text)
            }
            op::SHORT_BINBYTES | op::BINBYTES | op::BINBYTES8 | op::BYTEARRAY8 => Value::Bytes(self.string(opcode)?),
            _ => return self.protocol_0(opcode),
        })
    }

    fn string(&mut self, opcode: u8) -> Result<&'a [u8], TorchError> {
        const LENGTH: &str = "the length of a text";
        let cursor = &mut self.cursor;
        let len = match opcode {
            op::SHORT_BINUNICODE | op::SHORT_BINSTRING | op::SHORT_BINBYTES => cursor.u8(LENGTH)?.into(),
            op::BINUNICODE | op::BINSTRING | op::BINBYTES => cursor.u32(LENGTH)?.into(),
            _ => cursor.u64(LENGTH)?,
        };
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let text = cursor.take(len, "a text")?;
        match len > MAX_STRING {
            true => Err(TorchError::Limit { what: "bytes in one text of its pickle", limit: MAX_STRING }),
            false => Ok(text),
        }
    }

    /// Steps over an instruction of protocol 0, to see what the pickle would call.
    fn protocol_0(&mut self, opcode: u8) -> Result<Value<'a>, TorchError> {
        let unusual = TorchError::Instruction { opcode, at: self.at };
        match opcode {
            op::INT | op::LONG | op::FLOAT | op::STRING | op::UNICODE | op::GET | op::PERSID => {
                self.cursor.line(MAX_STRING, "a line")?;
            }
            op::PUT => {
                self.cursor.line(MAX_NAME, "a line")?;
                self.unusual.get_or_insert(unusual);
                return self.pop();
            }
            op::LIST | op::DICT => drop(self.pop_to_mark()?),
            op::DUP => {}
            _ => return Err(unusual),
        }
        self.unusual.get_or_insert(unusual);
        Ok(Value::None)
    }

    fn protocol(&mut self) -> Result<(), TorchError> {
        match self.cursor.u8("the protocol of its pickle")? {
            0..=MAX_PROTOCOL => Ok(()),
            _ => Err(self.malformed("the protocol is newer than 5, or this is no pickle")),
        }
    }

    fn mark(&mut self) -> Result<(), TorchError> {
        if self.marks.len() == MAX_STACK {
            return Err(TorchError::Limit { what: "nested marks", limit: MAX_STACK });
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn push(&mut self, value: Value<'a>) -> Result<(), TorchError> {
        if self.stack.len() == MAX_STACK {
            return Err(TorchError::Limit { what: "values on the stack", limit: MAX_STACK });
        }
        self.stack.push(value);
        Ok(())
    }

    pub(super) fn pop(&mut self) -> Result<Value<'a>, TorchError> {
        let bottom = self.marks.last().copied().unwrap_or(0);
        let empty = self.malformed("a value is used that is not there");
        if self.stack.len() <= bottom { Err(empty) } else { self.stack.pop().ok_or(empty) }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value<'a>>, TorchError> {
        let mark = self.marks.pop().ok_or(self.malformed("a mark is used that is not there"))?;
        Ok(self.stack.split_off(mark))
    }

    fn short_tuple(&mut self, opcode: u8) -> Result<Value<'a>, TorchError> {
        let len = usize::from(opcode - op::TUPLE1) + 1;
        let mut members = (0..len).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        members.reverse();
        self.objects.add(Object::Tuple(members))
    }

    fn memory(&mut self, opcode: u8) -> Result<(), TorchError> {
        const INDEX: &str = "a place in the memo";
        let index = match opcode {
            op::BINPUT | op::BINGET => self.cursor.u8(INDEX)?.into(),
            op::LONG_BINPUT | op::LONG_BINGET => self.cursor.u32(INDEX)?,
            _ => self.memo.len() as u32, // MEMOIZE
        };
        if matches!(opcode, op::BINGET | op::LONG_BINGET) {
            let value = self.memo.get(&index).copied();
            return value.ok_or(self.malformed("the memo is empty there")).and_then(|value| self.push(value));
        }
        let value = self.pop()?;
        self.stack.push(value); // it was there just now
        self.memo.insert(index, value);
        match self.memo.len() > MAX_MEMO {
            true => Err(TorchError::Limit { what: "places in the memo", limit: MAX_MEMO }),
            false => Ok(()),
        }
    }

    /// Adds what lies above a container to it.
    fn fill(&mut self, opcode: u8) -> Result<(), TorchError> {
        let added = match opcode {
            op::APPEND => vec![self.pop()?],
            op::SETITEM => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.pop_to_mark()?,
        };
        let container = self.pop()?;
        self.stack.push(container); // it was there just now
        self.objects.count_members(added.len())?;
        let is_list = matches!(opcode, op::APPEND | op::APPENDS);
        let is_dict = matches!(opcode, op::SETITEM | op::SETITEMS);
        match self.objects.get_mut(container) {
            Some(Object::List(members)) if is_list => members.extend(added),
            Some(Object::Set(members)) if !is_list && !is_dict => members.extend(added),
            Some(Object::Dict(members)) if is_dict && added.len() % 2 == 0 => {
                members.extend(added.chunks_exact(2).map(|pair| (pair[0], pair[1])));
            }
            Some(Object::Opaque(_)) => {}
            _ => return Err(self.malformed("members are added to what cannot hold them")),
        }
        Ok(())
    }

    fn names(&mut self) -> Result<(&'a str, &'a str), TorchError> {
        const NAME: &str = "the name of a class";
        let (module, name) = (self.cursor.line(MAX_NAME, NAME)?, self.cursor.line(MAX_NAME, NAME)?);
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| self.malformed("the name of a class is not UTF-8"));
        Ok((text(module)?, text(name)?))
    }

    fn global(&mut self) -> Result<Value<'a>, TorchError> {
        let (module, name) = self.names()?;
        self.objects.add(Object::Global(Global::named(module, name)?))
    }

    fn stack_global(&mut self) -> Result<Value<'a>, TorchError> {
        match (self.pop()?, self.pop()?) {
            (Value::Text(name), Value::Text(module)) => self.objects.add(Object::Global(Global::named(module, name)?)),
            _ => Err(self.malformed("the name of a class is no text")),
        }
    }

    /// `OBJ` makes an object of the class behind the mark. torch never writes it.
    fn refuse_class(&mut self) -> Result<Value<'a>, TorchError> {
        let class = self.pop_to_mark()?.first().copied().unwrap_or(Value::None);
        match self.objects.get(class) {
            Some(Object::Global(class)) => Err(class.refusal()),
            _ => Err(self.malformed("an object is made of what is no class")),
        }
    }

    pub(super) fn malformed(&self, problem: &'static str) -> TorchError {
        TorchError::Malformed { at: self.at, problem }
    }
}

/// Two's complement, little-endian, of any length.
fn integer(bytes: &[u8]) -> Value<'_> {
    let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
    let mut wide = [if negative { 0xff } else { 0 }; 8];
    match wide.get_mut(..bytes.len()) {
        Some(low) => {
            low.copy_from_slice(bytes);
            Value::Int(i64::from_le_bytes(wide))
        }
        None => Value::Long(bytes),
    }
}
