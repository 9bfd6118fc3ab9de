//! Kernels compiled for a card by CUDA's run-time compiler, and launched by its driver.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::ptr;

use libloading::Library;

use super::graph::told;

/// Of CUDA's two interfaces: anything but 0 is a failure.
type Status = c_int;
type Program = *mut c_void;
type Module = *mut c_void;
/// A kernel on a card; stays as long as the process.
type Function = *mut c_void;

/// `cuLaunchKernel`: function, grid and block by three sides each, shared bytes, stream, parameters, and others.
type Start = unsafe extern "C" fn(
    Function,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    *mut c_void,
    *mut *mut c_void,
    *mut *mut c_void,
) -> Status;

/// Kernels of one source for one card.
#[derive(Debug)]
pub(super) struct Compiled {
    functions: HashMap<&'static str, Function>,
    start: Start,
}

// SAFETY: the driver's handles may be used by any thread.
unsafe impl Send for Compiled {}
// SAFETY: as above.
unsafe impl Sync for Compiled {}

/// How a kernel is spread over the card.
#[derive(Debug, Clone, Copy)]
pub(super) struct Launch {
    pub(super) grid: (u32, u32),
    pub(super) block: (u32, u32),
    /// Bytes that the threads of a block share.
    pub(super) shared: u32,
}

// `shim.cpp`
unsafe extern "C" {
    fn ipa_current_stream(device: c_int, handle: *mut *mut c_void, text: *mut c_char, capacity: usize) -> c_int;
}

impl Compiled {
    /// Compiles a source for a card of this compute capability, and loads it there.
    ///
    /// # Errors
    /// What the compiler or the driver says, or which of their libraries is not there.
    pub(super) fn new(source: &str, options: &[String], names: &[&'static str]) -> Result<Self, String> {
        let binary = compiled(source, options)?;
        type Load = unsafe extern "C" fn(*mut Module, *const c_void) -> Status;
        type Find = unsafe extern "C" fn(*mut Function, Module, *const c_char) -> Status;
        let driver = driver()?;
        let mut module = ptr::null_mut();
        // SAFETY: the signatures are those of the driver's published interface, here and below.
        let loaded = unsafe { symbol::<Load>(driver, c"cuModuleLoadData")?(&raw mut module, binary.as_ptr().cast()) };
        done("cuModuleLoadData", loaded)?;
        // SAFETY: as above.
        let find = unsafe { symbol::<Find>(driver, c"cuModuleGetFunction")? };
        let find = |name: &&'static str| {
            let (mut function, c_name) = (ptr::null_mut(), CString::new(*name).map_err(|error| error.to_string())?);
            // SAFETY: the module was just loaded, and is never unloaded.
            done(name, unsafe { find(&raw mut function, module, c_name.as_ptr()) })?;
            Ok((*name, function))
        };
        let functions = names.iter().map(find).collect::<Result<_, String>>()?;
        // SAFETY: as above.
        Ok(Self { functions, start: unsafe { symbol::<Start>(driver, c"cuLaunchKernel")? } })
    }

    /// Starts a kernel after all that this thread told the card before; `arguments` point to its parameters.
    ///
    /// # Safety
    /// The parameters are of the kernel's own types, and what they point to on the card is as large as the kernel reads
    /// and writes.
    ///
    /// # Errors
    /// What the driver says.
    pub(super) unsafe fn launch(
        &self,
        name: &'static str,
        device: usize,
        Launch { grid, block, shared }: Launch,
        arguments: &mut [*mut c_void],
    ) -> Result<(), String> {
        let mut stream = ptr::null_mut();
        // SAFETY: the message's buffer is as large as is said.
        told(|text, capacity| unsafe { ipa_current_stream(device as c_int, &raw mut stream, text, capacity) == 1 })?;
        let ((x, y), (width, height), function) = (grid, block, self.functions[name]);
        // SAFETY: the caller's promise.
        let status = unsafe {
            (self.start)(function, x, y, 1, width, height, 1, shared, stream, arguments.as_mut_ptr(), ptr::null_mut())
        };
        done(name, status)
    }
}

/// The binary for a card.
pub(super) fn compiled(source: &str, options: &[String]) -> Result<Vec<u8>, String> {
    type Create = unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> Status;
    type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Status;
    type Size = unsafe extern "C" fn(Program, *mut usize) -> Status;
    type Get = unsafe extern "C" fn(Program, *mut c_char) -> Status;
    type Destroy = unsafe extern "C" fn(*mut Program) -> Status;
    // SAFETY: the library only defines functions.
    let library = unsafe { Library::new("libnvrtc.so.13") };
    let library = library.map_err(|error| format!("there is no run-time compiler: {error}"))?;
    let source = CString::new(source).map_err(|error| error.to_string())?;
    let options: Vec<CString> = options.iter().filter_map(|option| CString::new(option.as_str()).ok()).collect();
    let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
    let mut program = ptr::null_mut();
    let read = |(size, get): (&CStr, &CStr), program| {
        let mut length = 0;
        // SAFETY: signatures as published; the buffer is as long as was just said.
        unsafe {
            done("its length", symbol::<Size>(&library, size)?(program, &raw mut length))?;
            let mut bytes = vec![0_u8; length];
            done("its bytes", symbol::<Get>(&library, get)?(program, bytes.as_mut_ptr().cast()))?;
            Ok::<_, String>(bytes)
        }
    };
    // SAFETY: signatures as published; the strings live through the calls.
    unsafe {
        let create = symbol::<Create>(&library, c"nvrtcCreateProgram")?;
        let status = create(&raw mut program, source.as_ptr(), c"kernels.cu".as_ptr(), 0, ptr::null(), ptr::null());
        done("nvrtcCreateProgram", status)?;
        let compile = symbol::<Compile>(&library, c"nvrtcCompileProgram")?;
        let result = match compile(program, options.len() as c_int, options.as_ptr()) {
            0 => read((c"nvrtcGetCUBINSize", c"nvrtcGetCUBIN"), program),
            _ => {
                let log = read((c"nvrtcGetProgramLogSize", c"nvrtcGetProgramLog"), program)?;
                Err(String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned())
            }
        };
        symbol::<Destroy>(&library, c"nvrtcDestroyProgram")?(&raw mut program);
        result
    }
}

/// Stays loaded, as what was found in it is kept.
fn driver() -> Result<&'static Library, String> {
    // SAFETY: the library only defines functions.
    let library = unsafe { Library::new("libcuda.so.1") };
    library.map(|library| &*Box::leak(Box::new(library))).map_err(|error| error.to_string())
}

/// # Safety
/// `T` is the function's own type.
unsafe fn symbol<T: Copy>(library: &Library, name: &CStr) -> Result<T, String> {
    // SAFETY: the caller's promise.
    unsafe { library.get::<T>(name.to_bytes_with_nul()) }.map(|symbol| *symbol).map_err(|error| error.to_string())
}

fn done(what: &str, status: Status) -> Result<(), String> {
    if status == 0 { Ok(()) } else { Err(format!("{what} failed with {status}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_in_a_source_is_told() {
        let found = compiled("extern \"C\" __global__ void add(float* x) { *x += y; }", &[]);
        let message = found.expect_err("`y` is not declared");
        assert!(message.contains("\"y\" is undefined") || message.contains("no run-time compiler"), "{message}");
    }
}
