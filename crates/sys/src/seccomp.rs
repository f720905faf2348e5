//! The system-call filter of the sandboxes, compiled from a table.
//!
//! Everything is allowed but what [`table`] names: compilers, package managers and language run-times use an open-ended
//! set of calls, and what the table names is what reaches deep into the kernel and no tool needs. Promises: calls of a
//! foreign architecture and x32 calls kill the process, so the table cannot be passed by other numbers for the same calls.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

mod table;

pub use table::{Answer, Rule, Test, rules};

/// Bit that marks the calls of the x32 ABI (asm/unistd.h).
const X32: u32 = 0x4000_0000;

/// Classic BPF (linux/filter.h): load a word, jump if greater or equal, return.
const BPF_LD_W_ABS: u16 = 0x20;
const BPF_JGE: u16 = 0x35;
const BPF_RET: u16 = 0x06;
/// SECCOMP_RET_KILL_PROCESS (linux/seccomp.h).
const KILL_PROCESS: u32 = 0x8000_0000;

/// Why the table makes no program.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// There is no filter for this processor.
    #[error("no system-call filter for the processor {0}")]
    Processor(&'static str),
    /// The library refuses the table.
    #[error("the system-call filter cannot be compiled: {0}")]
    Compile(#[from] seccompiler::BackendError),
}

/// The filter as the bytes of a `struct sock_filter[]`, which is what `bwrap --seccomp` reads.
///
/// # Errors
/// There is no table for this processor.
pub fn program() -> Result<Vec<u8>, SeccompError> {
    let arch: TargetArch =
        std::env::consts::ARCH.try_into().map_err(|_| SeccompError::Processor(std::env::consts::ARCH))?;
    let mut program = vec![
        instruction(BPF_LD_W_ABS, 0, 0, 0),
        instruction(BPF_JGE, 0, 1, X32),
        instruction(BPF_RET, 0, 0, KILL_PROCESS),
    ];
    // One filter of the library has one answer. Each ends with "allow"; that is replaced by the next filter, which the
    // calls of the first can never reach, because a call is in one of them alone.
    for answer in Answer::ALL {
        if program.last().is_some_and(|last| last.code == BPF_RET && last.k != KILL_PROCESS) {
            program.pop();
        }
        program.extend(compile(answer, arch)?);
    }
    Ok(program.iter().flat_map(bytes).collect())
}

fn compile(answer: Answer, arch: TargetArch) -> Result<BpfProgram, SeccompError> {
    let mut calls: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for rule in rules().filter(|rule| rule.answer == answer) {
        let chain = calls.entry(rule.call).or_default();
        if !rule.tests.is_empty() {
            let conditions: Result<Vec<_>, _> = rule.tests.iter().map(condition).collect();
            chain.push(SeccompRule::new(conditions?)?);
        }
    }
    let refuse = SeccompAction::Errno(answer.errno());
    Ok(SeccompFilter::new(calls, SeccompAction::Allow, refuse, arch)?.try_into()?)
}

/// All arguments in the table are 32 bits wide in the kernel, whatever is in the upper half of the register.
fn condition(test: &Test) -> Result<SeccompCondition, seccompiler::BackendError> {
    let (argument, operator, value) = match *test {
        Test::Is(argument, value) => (argument, SeccompCmpOp::Eq, value),
        Test::IsNot(argument, value) => (argument, SeccompCmpOp::Ne, value),
        Test::Masked(argument, mask, value) => (argument, SeccompCmpOp::MaskedEq(mask), value),
    };
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

fn bytes(instruction: &sock_filter) -> [u8; 8] {
    let [a, b] = instruction.code.to_ne_bytes();
    let [c, d, e, f] = instruction.k.to_ne_bytes();
    [a, b, instruction.jt, instruction.jf, c, d, e, f]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_call_has_one_answer_and_whole_calls_have_no_tests_beside() {
        let mut answers = BTreeMap::new();
        let mut whole = BTreeSet::new();
        for rule in rules() {
            assert_eq!(*answers.entry(rule.call).or_insert(rule.answer), rule.answer, "{}", rule.name);
            if rule.tests.is_empty() {
                assert!(whole.insert(rule.call), "{} is listed twice", rule.name);
            }
        }
        for rule in rules().filter(|rule| !rule.tests.is_empty()) {
            assert!(!whole.contains(&rule.call), "{} is refused whole and in part", rule.name);
        }
    }

    #[test]
    fn the_program_fits_the_kernel_and_ends_with_allow() {
        let program = program().unwrap();
        assert_eq!(program.len() % 8, 0);
        assert!(program.len() / 8 < 4096, "{} instructions", program.len() / 8);
        assert_eq!(program[program.len() - 8..], bytes(&instruction(BPF_RET, 0, 0, 0x7fff_0000)));
    }
}
