# How every CPU but the first comes up (Intel SDM vol. 3A, 9.4): a start-up interrupt has it begin in real
# mode, at the beginning of a page below 1 MiB. What lies between ap_trampoline and ap_trampoline_end is copied
# there; from protected mode on the CPU is in the image itself. It goes by the boot's own tables, which map the
# instruction behind "mov cr0" where it is fetched, as the first CPU did; Rust loads the kernel's root.

.section .text.boot, "ax"
.code16
.global ap_trampoline, ap_trampoline_end
ap_trampoline:
    cli
    cld
    lgdtl %cs:(ap_gdt_pointer - ap_trampoline)
    movl %cr0, %eax
    orl $1, %eax                        # PE
    movl %eax, %cr0
    ljmpl $0x18, $(ap_protected - OFFSET)
    .align 4
ap_gdt_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .long boot_gdt - OFFSET
ap_trampoline_end:

.code32
ap_protected:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl ap_cr4 - OFFSET, %eax          # PAE, PGE, and LA57 if the first CPU has it on
    movl %eax, %cr4
    movl ap_cr3 - OFFSET, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx              # EFER
    rdmsr
    orl $0x901, %eax                    # SCE, LME, NXE
    wrmsr
    movl %cr0, %eax
    andl $0x9fffffff, %eax              # INIT leaves the caches off: CD, NW
    orl $0x80010000, %eax               # PG, WP
    movl %eax, %cr0
    ljmp $0x08, $(ap_long_mode - OFFSET)

.code64
ap_long_mode:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movabsq $ap_upper_half, %rax
    jmp *%rax
ap_upper_half:
    movq ap_stack_top, %rsp
    xorl %ebp, %ebp
    movl ap_number, %edi
    call ap_main
    ud2

# What the first CPU says to the one that it starts.
.section .data.ap, "aw"
    .align 8
.global ap_cr3, ap_cr4, ap_stack_top, ap_number
ap_stack_top:
    .quad 0
ap_cr3:
    .quad 0
ap_cr4:
    .quad 0
ap_number:
    .quad 0
