"""What must hold after every crash and every fault, checked by one function over matrices of cases."""
