//! How the kernel is called safely: the only `unsafe` of the project.
//!
//! Runs anywhere. Takes borrowed descriptors and `&CStr`, returns owned descriptors or nothing, and fails with
//! a bare [`Errno`]. No policy: which call, with which arguments, is decided elsewhere.
#![allow(unsafe_code)]

pub mod bpf;
pub mod creds;
#[cfg(all(target_arch = "x86_64", not(debug_assertions)))]
mod entry;
pub mod fd;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod path;
pub mod process;
pub mod procfs;
pub mod program;
pub mod seal;
pub mod seccomp;
pub mod stamps;
pub mod start;
pub mod terminal;

use nix::errno::Errno;

/// What a raw system call returned, as a result.
fn checked(value: libc::c_long) -> Result<libc::c_long, Errno> {
    Errno::result(value)
}

/// What strerror(3) of glibc says, and with it everybody else: callers look for these words.
pub fn strerror(errno: Errno) -> String {
    if let Some((_, text)) = GLIBC_WORDS.iter().find(|(known, _)| *known == errno) {
        return (*text).to_owned();
    }
    let text = std::io::Error::from_raw_os_error(errno as i32).to_string();
    text.split(" (os error").next().unwrap_or_default().to_string()
}

/// Where musl has other words, for what the calls of a runtime can fail with.
const GLIBC_WORDS: &[(Errno, &str)] = &[
    (Errno::EIO, "Input/output error"),
    (Errno::ECHILD, "No child processes"),
    (Errno::ENOMEM, "Cannot allocate memory"),
    (Errno::EBUSY, "Device or resource busy"),
    (Errno::EXDEV, "Invalid cross-device link"),
    (Errno::EMFILE, "Too many open files"),
    (Errno::ENOTTY, "Inappropriate ioctl for device"),
    (Errno::ESPIPE, "Illegal seek"),
    (Errno::EDOM, "Numerical argument out of domain"),
    (Errno::ERANGE, "Numerical result out of range"),
    (Errno::EDEADLK, "Resource deadlock avoided"),
    (Errno::ENAMETOOLONG, "File name too long"),
    (Errno::ELOOP, "Too many levels of symbolic links"),
    (Errno::ETIME, "Timer expired"),
    (Errno::EREMOTE, "Object is remote"),
    (Errno::ECOMM, "Communication error on send"),
    (Errno::EOVERFLOW, "Value too large for defined data type"),
    (Errno::EILSEQ, "Invalid or incomplete multibyte or wide character"),
    (Errno::EUSERS, "Too many users"),
    (Errno::ENOTSOCK, "Socket operation on non-socket"),
    (Errno::EMSGSIZE, "Message too long"),
    (Errno::EOPNOTSUPP, "Operation not supported"),
    (Errno::EADDRINUSE, "Address already in use"),
    (Errno::EADDRNOTAVAIL, "Cannot assign requested address"),
    (Errno::ENETUNREACH, "Network is unreachable"),
    (Errno::ENETRESET, "Network dropped connection on reset"),
    (Errno::ECONNABORTED, "Software caused connection abort"),
    (Errno::EISCONN, "Transport endpoint is already connected"),
    (Errno::ENOTCONN, "Transport endpoint is not connected"),
    (Errno::ESHUTDOWN, "Cannot send after transport endpoint shutdown"),
    (Errno::ETOOMANYREFS, "Too many references: cannot splice"),
    (Errno::ETIMEDOUT, "Connection timed out"),
    (Errno::EHOSTUNREACH, "No route to host"),
    (Errno::EINPROGRESS, "Operation now in progress"),
    (Errno::EUCLEAN, "Structure needs cleaning"),
    (Errno::EDQUOT, "Disk quota exceeded"),
];

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    #[test]
    fn errors_have_the_words_of_glibc() {
        const ASK: &str = "import os; [print(os.strerror(number)) for number in range(1, 123)]";
        // Debian's own, which is linked to glibc; hack/test brings it.
        let output = std::process::Command::new("/usr/bin/python3").args(["-c", ASK]).output().unwrap();
        let answer = String::from_utf8(output.stdout).unwrap();
        assert_eq!(answer.lines().count(), 122);
        // Streams, codes of hardware long gone, and numbers without a name.
        let rare = [41..=41, 44..=59, 63..=65, 68..=69, 71..=74, 76..=86, 118..=121];
        for (number, text) in (1..).zip(answer.lines()) {
            if !rare.iter().any(|range| range.contains(&number)) {
                assert_eq!(super::strerror(Errno::from_raw(number)), text, "{number}");
            }
        }
    }
}
