# The accelerator probe for x86_64: a boot sector that does what a broken virtualisation gets wrong (boot loaders'
# iret, paging, long mode, iretq, cpuid), runs a loop whose time tells how fast this computer emulates, and ends
# QEMU with status 33 through isa-debug-exit. Its bytes stand in accelerator.py; a test assembles this file again:
#   as --64 -o p.o probe_x86_64.S && ld -m elf_x86_64 -Ttext 0x7c00 --oformat binary -o p.bin p.o
        .set    ROUNDS, 100000000
        .code16
        .globl  _start
_start: cli
        ljmp    $0, $real
real:   xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $0x7c00, %sp
        pushfw
        pushw   %cs
        pushw   $tables
        iretw
tables: movl    $0x1000, %edi           # identity map of the first 2 MiB: PML4, PDPT, PD
        movl    $0xc00, %ecx
        xorl    %eax, %eax
        rep stosl
        movl    $0x2003, 0x1000
        movl    $0x3003, 0x2000
        movl    $0x83, 0x3000
        movl    %cr4, %eax
        orl     $0x20, %eax             # PAE
        movl    %eax, %cr4
        movl    $0x1000, %eax
        movl    %eax, %cr3
        movl    $0xc0000080, %ecx       # EFER.LME
        rdmsr
        orl     $0x100, %eax
        wrmsr
        movl    %cr0, %eax
        orl     $0x80000001, %eax       # PG, PE
        movl    %eax, %cr0
        lgdtw   gdtr
        ljmpl   $8, $long
        .code64
long:   movl    $0x10, %eax
        movl    %eax, %ds
        movl    %eax, %ss
        movl    $0x7c00, %esp
        pushq   $0x10
        pushq   $0x7c00
        pushfq
        pushq   $8
        pushq   $loop
        iretq
loop:   xorl    %eax, %eax
        cpuid
        movl    $ROUNDS, %ecx
1:      addl    %ecx, 0x4000
        decl    %ecx
        jnz     1b
        movl    $0x10, %eax
        outl    %eax, $0xf4
2:      hlt
        jmp     2b
        .balign 8
gdt:    .quad   0
        .quad   0x00af9a000000ffff      # code, 64 bit
        .quad   0x00cf92000000ffff      # data
gdtr:   .word   gdtr - gdt - 1
        .long   gdt
        .org    510
        .word   0xaa55
