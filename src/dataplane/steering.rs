//! Steering: the classic BPF program by which the kernel gives each datagram to its owner's socket.
//!
//! The program computes [`Owner::core`] from the datagram's first `info_hash` and the kernel takes
//! the result as an index into the reuseport group, whose sockets joined in core order. It is a
//! hint that saves a hop between cores, never a promise: a worker still checks who owns a hash.
//! Must never load beyond a datagram's end: the kernel would end the program with 0, and every
//! 16-byte connect, which is half of all traffic, would arrive at core 0. Hence lengths come first,
//! and what carries no `info_hash` gets an index out of range on purpose, upon which the kernel
//! falls back to its own hash of addresses and ports (`reuseport_select_sock`).
#![expect(unsafe_code, reason = "no safe crate sets SO_ATTACH_REUSEPORT_CBPF")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::tracker::owner::{HALFWORDS, Owner};

/// "No opinion": no group has so many sockets.
const UNSTEERED: u32 = u32::MAX;

/// Where the fields of a request are, from the start of the UDP payload (BEP 15).
mod offset {
    /// Action, 4 bytes.
    pub const ACTION: u32 = 8;
    /// The `info_hash` of an announce and the first one of a scrape, 20 bytes.
    pub const INFO_HASH: u32 = 16;
}
/// The action of an announce (BEP 15).
const ANNOUNCE: u32 = 1;
/// Bytes of an announce at the least.
const ANNOUNCE_BYTES: u32 = 98;
/// The action of a scrape (BEP 15).
const SCRAPE: u32 = 2;
/// Bytes of a scrape of one hash.
const SCRAPE_BYTES: u32 = 36;

/// Instructions that decide whether there is a hash to compute.
const GATE: usize = 7;
/// Instructions that compute its owner: the addend, four for each halfword but three for the last,
/// then the three that scale the sum to a core, and the return.
const FORMULA: usize = 1 + 4 * HALFWORDS - 1 + 4;

/// The program for `owner`: 51 instructions, whatever the number of cores.
///
/// ```text
///        ld len      ; bytes of UDP payload
///        jge 36      else miss
///        ld [8]      ; action, safe now
///        jeq 2       then hash
///        jeq 1       else miss
///        ld len
///        jge 98      else miss
/// hash:  ldx #k10
///        ldh [16]    ; mul #k0 ; add x ; tax        ten times, at 16, 18, .. 34
///        rsh #16     ; mul #cores ; rsh #16
///        ret a
/// miss:  ret #0xffffffff
/// ```
#[must_use]
pub fn program(owner: &Owner) -> Vec<libc::sock_filter> {
    use code::{ADD_X, JEQ, JGE, LD_LEN, LD_WORD, LDH, LDX, MUL, RET, RET_A, RSH, TAX};

    let miss = GATE + FORMULA;
    let mut program = vec![
        instruction(LD_LEN, 0),
        jump(JGE, SCRAPE_BYTES, 0, skip(1, miss)),
        instruction(LD_WORD, offset::ACTION),
        jump(JEQ, SCRAPE, skip(3, GATE), 0),
        jump(JEQ, ANNOUNCE, 0, skip(4, miss)),
        instruction(LD_LEN, 0),
        jump(JGE, ANNOUNCE_BYTES, 0, skip(6, miss)),
    ];
    debug_assert_eq!(program.len(), GATE);

    let keys = owner.keys();
    program.push(instruction(LDX, keys[HALFWORDS]));
    for (halfword, key) in (offset::INFO_HASH..).step_by(2).zip(&keys[..HALFWORDS]) {
        // X holds the sum so far: no scratch memory, which would cost a store and a load each time.
        program.push(instruction(LDH, halfword));
        program.push(instruction(MUL, *key));
        program.push(instruction(ADD_X, 0));
        program.push(instruction(TAX, 0));
    }
    // The last sum stays in A.
    program.pop();
    program.push(instruction(RSH, 16));
    program.push(instruction(MUL, u32::from(owner.cores())));
    program.push(instruction(RSH, 16));
    program.push(instruction(RET_A, 0));
    debug_assert_eq!(program.len(), GATE + FORMULA);
    program.push(instruction(RET, UNSTEERED));
    program
}

/// Makes the kernel steer the reuseport group of `socket` (any one of its members).
///
/// The group must have `owner.cores()` sockets that joined in core order. One core needs no
/// steering, so for one this does nothing (a lone socket has no group, and the kernel would
/// refuse).
///
/// # Errors
/// What the kernel said: old kernels and gVisor do not know the option. The tracker then works
/// without it, at the price of a hop between cores for most announces.
pub fn attach(socket: BorrowedFd<'_>, owner: &Owner) -> io::Result<()> {
    if owner.cores() == 1 {
        return Ok(());
    }
    let mut instructions = program(owner);
    let filter = fprog(&mut instructions);
    // SAFETY: `socket` is open: it is borrowed. The option's value is the `sock_fprog` above and
    // `FPROG_BYTES` its size; it points at `instructions`, which lives to the end of this function
    // and has `len` elements. The kernel copies both before it returns and keeps no pointer.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const filter).cast(),
            FPROG_BYTES,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The program as the kernel takes it; valid as long as `instructions` is.
fn fprog(instructions: &mut [libc::sock_filter]) -> libc::sock_fprog {
    let len = u16::try_from(instructions.len()).expect("some fifty instructions");
    libc::sock_fprog { len, filter: instructions.as_mut_ptr() }
}

/// `size_of::<libc::sock_fprog>()` in the kernel's type: a length, padding, a pointer.
const FPROG_BYTES: libc::socklen_t = 16;
const _: () = assert!(FPROG_BYTES as usize == size_of::<libc::sock_fprog>());

/// The offset of a jump at `from` to `to`: the number of instructions between.
fn skip(from: usize, to: usize) -> u8 {
    u8::try_from(to - from - 1).expect("the whole program is below 256 instructions")
}

/// An instruction that does not jump.
fn instruction(code: u16, k: u32) -> libc::sock_filter {
    jump(code, k, 0, 0)
}

/// An instruction that skips `jt` instructions if its test holds, else `jf`.
fn jump(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// The codes of the instructions used, as (class | size or operation | mode or source).
mod code {
    use libc::{
        BPF_A, BPF_ABS, BPF_ADD, BPF_ALU, BPF_H, BPF_IMM, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD,
        BPF_LDX, BPF_LEN, BPF_MISC, BPF_MUL, BPF_RET, BPF_RSH, BPF_TAX, BPF_W, BPF_X,
    };

    /// `libc` has them as `u32`, the instruction as `u16`; none is above 255.
    const fn code(bits: u32) -> u16 {
        assert!(bits < 256);
        let [.., low] = bits.to_be_bytes();
        low as u16
    }

    /// A = bytes of the datagram.
    pub const LD_LEN: u16 = code(BPF_LD | BPF_W | BPF_LEN);
    /// A = the big-endian word at offset k.
    pub const LD_WORD: u16 = code(BPF_LD | BPF_W | BPF_ABS);
    /// A = the big-endian halfword at offset k.
    pub const LDH: u16 = code(BPF_LD | BPF_H | BPF_ABS);
    /// X = k.
    pub const LDX: u16 = code(BPF_LDX | BPF_W | BPF_IMM);
    /// A = A * k mod 2^32.
    pub const MUL: u16 = code(BPF_ALU | BPF_MUL | BPF_K);
    /// A = A + X mod 2^32.
    pub const ADD_X: u16 = code(BPF_ALU | BPF_ADD | BPF_X);
    /// A = A >> k.
    pub const RSH: u16 = code(BPF_ALU | BPF_RSH | BPF_K);
    /// X = A.
    pub const TAX: u16 = code(BPF_MISC | BPF_TAX);
    /// Skip by A == k.
    pub const JEQ: u16 = code(BPF_JMP | BPF_JEQ | BPF_K);
    /// Skip by A >= k.
    pub const JGE: u16 = code(BPF_JMP | BPF_JGE | BPF_K);
    /// The result is k.
    pub const RET: u16 = code(BPF_RET | BPF_K);
    /// The result is A.
    pub const RET_A: u16 = code(BPF_RET | BPF_A);
}

#[cfg(test)]
mod tests;
