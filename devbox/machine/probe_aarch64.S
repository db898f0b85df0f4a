# The accelerator probe for aarch64: a flat kernel for the `virt` machine that returns from an exception (eret) with
# the stack in use, runs a loop whose time tells how fast this computer emulates, and switches the machine off
# through PSCI (SYSTEM_OFF by hvc), so that QEMU ends with status 0. Its bytes stand in accelerator.py:
#   aarch64-linux-gnu-as -o p.o probe_aarch64.S && aarch64-linux-gnu-objcopy -O binary -j .text p.o p.bin
        .set    ROUNDS, 100000000
        .globl  _start
_start: adr     x1, _start
        add     x1, x1, #0x10000
        mov     sp, x1
        adr     x2, level
        msr     elr_el1, x2
        mov     x3, #0x3c5              // EL1h, all masked
        msr     spsr_el1, x3
        eret
level:  mrs     x4, midr_el1
        mov     x5, #(ROUNDS & 0xffff)
        movk    x5, #(ROUNDS >> 16), lsl #16
1:      ldr     x6, [sp]
        add     x6, x6, x5
        str     x6, [sp]
        subs    x5, x5, #1
        b.ne    1b
        mov     w0, #0x0008             // PSCI SYSTEM_OFF, 0x84000008
        movk    w0, #0x8400, lsl #16
        hvc     #0
2:      wfi
        b       2b
